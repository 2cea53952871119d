/* The machine's clock, days later for one process: loaded before the C library. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static time_t later;

__attribute__((constructor)) static void set(void) {
    const char *days = getenv("CLOCK_DAYS_LATER");
    later = days ? atol(days) * 86400 : 0;
}

/* What waits goes by another clock, which is left alone. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += later;
    return failed;
}
