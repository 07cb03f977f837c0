/* sai3ssh/agent/nullserver.py in C: a server that is faster than any client here, so that the client is the limit.

   null_server LISTENER COUNTS   descriptors of a listening socket and of a file of five 64-bit counters: get, put, list, stat, delete */
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { GET, PUT, LIST, STAT, DELETE };
#define BUFFER (1 << 20)
#define HEAD "HTTP/1.1 200 OK\r\nServer: null\r\nETag: \"d41d8cd98f00b204e9800998ecf8427e\"\r\n" \
             "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
#define PAGE "<?xml version=\"1.0\"?><ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"

/* What is to come of a request and to go of its answer. */
struct client {
  long left, zeros;
  int have, unsent, writing;
  char partial[16384], answer[512];
};

static struct client *clients[65536];
static char buffer[BUFFER], small[BUFFER], zeros[BUFFER];
static uint64_t *counts;
static int poller;

static void drop(int fd) {
  free(clients[fd]);
  clients[fd] = NULL;
  close(fd);
}

static void watch(int fd, struct client *c, int writing) {
  struct epoll_event event = {writing ? EPOLLOUT : EPOLLIN, {.fd = fd}};
  if (c->writing != writing) epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
  c->writing = writing;
}

static void go_on_sending(int fd, struct client *c) {
  while (c->unsent || c->zeros) {
    ssize_t n;
    if (c->unsent && c->zeros && c->unsent + c->zeros <= 65536) {
      memcpy(small, c->answer, c->unsent);
      memset(small + c->unsent, 0, c->zeros);
      n = send(fd, small, c->unsent + c->zeros, MSG_NOSIGNAL);
    } else {
      n = c->unsent ? send(fd, c->answer, c->unsent, MSG_NOSIGNAL) : send(fd, zeros, c->zeros < BUFFER ? c->zeros : BUFFER, MSG_NOSIGNAL);
    }
    if (n < 0) {
      if (errno == EAGAIN) watch(fd, c, 1);
      else drop(fd);
      return;
    }
    int of_answer = n < c->unsent ? n : c->unsent;
    memmove(c->answer, c->answer + of_answer, c->unsent - of_answer);
    c->unsent -= of_answer;
    c->zeros -= n - of_answer;
  }
  watch(fd, c, 0);
}

static void read_head(int fd, struct client *c, char *data, char *end, long have) {
  char *stop = memchr(data, '\r', end - data), *size = NULL;
  long bytes = 0;
  c->left = c->zeros = 0;
  *stop = 0;
  for (char *at = data; (at = strchr(at, '/')); at++) {
    if (isdigit((unsigned char)at[1])) {
      bytes = strtol(at + 1, &size, 10);
      if (*size == '/' || *size == '?') break;
      bytes = 0;
    }
  }
  if (data[0] == 'G' && strstr(data, "list-type=")) {
    counts[LIST]++;
    c->unsent = sprintf(c->answer, HEAD "Content-Type: application/xml\r\nContent-Length: %zu\r\n\r\n" PAGE, strlen(PAGE));
  } else if (data[0] == 'G' || data[0] == 'H') {
    counts[data[0] == 'G' ? GET : STAT]++;
    c->unsent = sprintf(c->answer, HEAD "Content-Type: binary/octet-stream\r\nContent-Length: %ld\r\n\r\n", bytes);
    c->zeros = data[0] == 'G' ? bytes : 0;
  } else {
    counts[data[0] == 'P' ? PUT : DELETE]++;
    c->unsent = sprintf(c->answer, HEAD "Content-Length: 0\r\n\r\n");
    *end = 0;
    for (char *line = stop + 1; data[0] == 'P' && line < end; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : end) {
      while (*line == '\n') line++;
      if (!strncasecmp(line, "content-length:", 15)) c->left = atol(line + 15);
      if (!strncasecmp(line, "expect: 100-continue", 20) && have == end + 4 - data) send(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL);
    }
  }
}

static void receive(int fd, struct client *c) {
  for (;;) {
    memcpy(buffer, c->partial, c->have);
    ssize_t n = recv(fd, buffer + c->have, BUFFER - c->have - 1, 0);
    if (n <= 0) {
      if (n == 0 || errno != EAGAIN) drop(fd);
      return;
    }
    if (c->left) {
      c->left -= n;
    } else {
      n += c->have;
      c->have = 0;
      char *end = memmem(buffer, n, "\r\n\r\n", 4);
      if (!end) {
        if (n > (ssize_t)sizeof c->partial) return drop(fd);
        memcpy(c->partial, buffer, c->have = n);
        continue;
      }
      read_head(fd, c, buffer, end, n);
      c->left -= n - (end + 4 - buffer);
    }
    if (c->left <= 0) return go_on_sending(fd, c);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  int listener = atoi(argv[1]), one = 1;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  counts = mmap(NULL, 40, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
  if (counts == MAP_FAILED) return 1;
  poller = epoll_create1(0);
  struct epoll_event event = {EPOLLIN, {.fd = listener}};
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    struct epoll_event events[512];
    int n = epoll_wait(poller, events, 512, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd != listener) {
        if (events[i].events & EPOLLOUT) go_on_sending(fd, clients[fd]);
        else receive(fd, clients[fd]);
        continue;
      }
      if ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0) continue;
      if (fd >= 65536 || !(clients[fd] = calloc(1, sizeof **clients))) {
        close(fd);
        continue;
      }
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      event.data.fd = fd;
      epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
  }
}
