/* A library that is loaded into a gateway under test and makes the clock of one chosen thread fail, or stall, once; and
 * lets its wall clock be wrong, or time pass at once.
 *
 * It exists because a thread of the real program must die without a hook in the program: Rust panics when the kernel
 * has no time to tell; and because a wall clock steps when somebody sets it. The test chooses by writing the six
 * numbers below into the file that $FAULTY_CLOCK names. It must never touch another thread, or a program that has no
 * such file. */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct order {
    volatile int32_t thread;   /* kernel's number of the thread; 0: nothing is to happen */
    volatile int32_t calls;    /* which call from now on is meant; 1: the next */
    volatile int32_t stall_ms; /* sleep so long; 0: fail */
    volatile int32_t done;     /* how often something has happened */
    volatile int32_t ahead_s;  /* the wall clock of all threads is so far ahead; negative: behind */
    volatile int32_t passed_s; /* so much time has passed that nobody waited for */
};

static struct order *order;

__attribute__((constructor)) static void open_order(void) {
    const char *path = getenv("FAULTY_CLOCK");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *page = mmap(NULL, sizeof *order, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED)
        order = page;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (order && clock == CLOCK_MONOTONIC && order->thread && order->thread == syscall(SYS_gettid) &&
        --order->calls == 0) {
        int32_t stall_ms = order->stall_ms;
        order->thread = 0;
        order->done++;
        if (!stall_ms) {
            errno = EIO;
            return -1;
        }
        usleep(stall_ms * 1000);
    }
    int result = syscall(SYS_clock_gettime, clock, time);
    if (order && clock == CLOCK_REALTIME && result == 0)
        time->tv_sec += order->ahead_s;
    if (order && clock == CLOCK_MONOTONIC && result == 0)
        time->tv_sec += order->passed_s;
    return result;
}
