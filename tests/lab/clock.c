/* LD_PRELOAD: the wall clock of a process is CLOCK_AHEAD_S seconds ahead; its other clocks are as they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  const char *ahead = getenv("CLOCK_AHEAD_S");
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, now);
  if (!failed && ahead && clock == CLOCK_REALTIME) now->tv_sec += atoi(ahead);
  return failed;
}
