/* The floor: what one send and one recv per operation cost, on the same sockets, without signing, parsing or measuring anything.

   floor PORT CONNECTIONS SIZE get|put   runs until it is killed: keep-alive connections to 127.0.0.1, one request in flight on each */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static char buffer[1 << 20];

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  int connections = atoi(argv[2]), size = atoi(argv[3]), put = argv[4][0] == 'p', poller = epoll_create1(0);
  char *request = malloc(1024 + size);
  int head = put ? sprintf(request, "PUT /bucket/%d/key HTTP/1.1\r\nContent-Length: %d\r\nHost: 127.0.0.1\r\n\r\n", size, size)
                 : sprintf(request, "GET /bucket/%d/key HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", size);
  int length = head + (put ? size : 0);
  long *left = calloc(connections + 64, sizeof *left);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  for (int i = 0; i < connections; i++) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) return perror("connect"), 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {EPOLLIN, {.fd = fd}};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    if (fd >= connections + 64 || send(fd, request, length, 0) != length) return 1;
  }
  for (;;) {
    struct epoll_event events[512];
    int n = epoll_wait(poller, events, 512, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      long got = recv(fd, buffer, sizeof buffer, 0);
      if (got <= 0) return 1;
      if (left[fd]) {
        left[fd] -= got;
      } else {
        /* The length of the head is found once: all answers are alike. */
        char *end = memmem(buffer, got, "\r\n\r\n", 4);
        if (!end) return 1;
        left[fd] = (end + 4 - buffer) + (put ? 0 : size) - got;
      }
      if (left[fd] == 0 && send(fd, request, length, 0) != length) return 1;
    }
  }
}
