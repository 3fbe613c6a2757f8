// Loaded before a server, it makes the kernel refuse it the registers of AMX, so that it computes as on a CPU without.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>

#define ARCH_REQ_XCOMP_PERM 0x1023

long syscall(long number, ...) {
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int index = 0; index < 6; index++) {
        arguments[index] = va_arg(list, long);
    }
    va_end(list);
#ifdef SYS_arch_prctl
    if (number == SYS_arch_prctl && arguments[0] == ARCH_REQ_XCOMP_PERM) {
        errno = EOPNOTSUPP;
        return -1;
    }
#endif
    long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}
