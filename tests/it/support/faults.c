/* A disk that fails on demand, for the tests: preloaded into a node (LD_PRELOAD), it fails calls on files.
 *
 * $FAULTS names a control file, read again at every call. Each line is a rule:
 *     CALL PATH EFFECT COUNT
 * CALL is open (for writing), write, sync or rename; PATH a part of the file's path; EFFECT an errno, or "short" for a
 * write of half the bytes; COUNT how many calls it fails, -1 for all. The first rule that fits and has calls left acts.
 * When the file changes, counting begins anew. Each call that is failed adds a byte to the file's sibling $FAULTS.hits. Only a process that was started as "sidelight serve" is touched: its
 * workers may make no system call of this kind.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RULES = 16, TEXT = 4096, SHORT = -1 };
static const char *control;
static char seen[TEXT];
static long used[RULES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    char line[4096];
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
    long n = fd < 0 ? 0 : syscall(SYS_read, fd, line, sizeof line - 1);
    if (fd >= 0) syscall(SYS_close, fd);
    if (n <= 0) return;
    line[n] = 0;
    size_t first = strlen(line) + 1;
    if ((long)first < n && !strcmp(line + first, "serve")) control = getenv("FAULTS");
}

static void hit(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s.hits", control);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    if (syscall(SYS_write, fd, "x", 1) < 0) perror(path);
    syscall(SYS_close, fd);
}

/* 0: nothing; SHORT; else an errno. */
static int fault(const char *call, const char *path) {
    if (!control) return 0;
    char text[TEXT] = "";
    int fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    long n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (n <= 0) return 0;
    text[n] = 0;
    int effect = 0;
    pthread_mutex_lock(&lock);
    if (strcmp(seen, text)) {
        strcpy(seen, text);
        memset(used, 0, sizeof used);
    }
    char *rest = text, *line;
    for (int i = 0; i < RULES && (line = strsep(&rest, "\n")); i++) {
        char what[16], part[1024], how[16];
        long count;
        if (sscanf(line, "%15s %1023s %15s %ld", what, part, how, &count) != 4) continue;
        if (strcmp(what, call) || !strstr(path, part) || (count >= 0 && used[i] >= count)) continue;
        used[i]++;
        effect = strcmp(how, "short") ? atoi(how) : SHORT;
        hit();
        break;
    }
    pthread_mutex_unlock(&lock);
    return effect;
}

static int fault_of(const char *call, int fd) {
    if (!control) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n <= 0 || path[0] != '/') return 0;
    path[n] = 0;
    return fault(call, path);
}

#define REAL(name) ((__typeof__(&name))real(&real_##name, #name))
static void *real(void **slot, const char *name) {
    if (!*slot) *slot = dlsym(RTLD_NEXT, name);
    return *slot;
}
#define FAIL(effect) do { int e_ = (effect); if (e_ > 0) { errno = e_; return -1; } } while (0)

static void *real_write, *real_pwrite, *real_pwrite64, *real_writev, *real_fsync, *real_fdatasync, *real_rename,
    *real_open, *real_open64;

ssize_t write(int fd, const void *bytes, size_t n) {
    int e = fault_of("write", fd);
    FAIL(e);
    return REAL(write)(fd, bytes, e == SHORT && n > 1 ? n / 2 : n);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) {
    int e = fault_of("write", fd);
    FAIL(e);
    return REAL(pwrite)(fd, bytes, e == SHORT && n > 1 ? n / 2 : n, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    int e = fault_of("write", fd);
    FAIL(e);
    return REAL(pwrite64)(fd, bytes, e == SHORT && n > 1 ? n / 2 : n, at);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    int e = fault_of("write", fd);
    FAIL(e);
    return REAL(writev)(fd, parts, e == SHORT && n > 1 ? n / 2 : n);
}
int fsync(int fd) {
    FAIL(fault_of("sync", fd));
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    FAIL(fault_of("sync", fd));
    return REAL(fdatasync)(fd);
}
int rename(const char *from, const char *to) {
    FAIL(fault("rename", to));
    return REAL(rename)(from, to);
}

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                         \
        if ((flags & O_ACCMODE) != O_RDONLY) FAIL(fault("open", path));       \
        return REAL(name)(path, flags, mode);                                 \
    }
OPEN(open)
OPEN(open64)
