/* SPDX-License-Identifier: Apache-2.0 */
/* Load of a mounted file system: fork, run phases together, one JSON line per phase.
 *
 *     fuse_load FOLDER PROCESSES SECONDS COUNT BYTES PHASE[:BLOCK[:direct]] ...
 *
 * C, because every microsecond it uses is missing from the file system that shares its cores. Each process works in a
 * folder of its own (FOLDER/pN). A phase ends after SECONDS or COUNT operations per process (data: BYTES in all), and a
 * phase that uses up what another made uses only that. `expire` sleeps until caches of one second have run out;
 * `stat` after it touches every name once, so each costs the file system one lookup. `seconds` is from the first start to
 * the last end. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PROCESSES = 256, SMALL = 4096, ALIGN = 4096, LISTED = 10000 };

struct result {
    double start, end;
    uint64_t operations, bytes, errors;
    int first_errno;
};

struct shared {
    pthread_barrier_t barrier;
    struct result results[MAX_PROCESSES];
};

/* What one process has made so far. */
struct worker {
    int number, root, folder, file;
    uint64_t files, renamed, small, folders, seed;
    char *buffer;
    struct result *result;
    double deadline;
};

struct settings {
    const char *folder;
    int processes;
    double seconds;
    uint64_t count, bytes;
};

struct phase {
    char name[32];
    size_t block;
    int direct;
};

static struct settings settings;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static uint64_t next_random(struct worker *w) { /* xorshift64 */
    w->seed ^= w->seed << 13, w->seed ^= w->seed >> 7, w->seed ^= w->seed << 17;
    return w->seed;
}

static int good(struct worker *w, long outcome) {
    if (outcome >= 0) {
        w->result->operations++;
        return 1;
    }
    if (!w->result->errors++) w->result->first_errno = errno;
    return 0;
}

static int due(struct worker *w) { return now() >= w->deadline; }

static const char *name_of(const char *kind, uint64_t n) {
    static char name[64];
    snprintf(name, sizeof name, "%s%llu", kind, (unsigned long long)n);
    return name;
}

/* -- names ------------------------------------------------------------------------------------------------------- */

static int create_one(struct worker *w, const char *name, size_t length) {
    int fd = openat(w->folder, name, O_CREAT | O_EXCL | O_WRONLY, 0644);
    if (fd < 0) return -1;
    if (length && write(fd, w->buffer, length) != (ssize_t)length) {
        close(fd);
        return -1;
    }
    return close(fd);
}

static void do_create(struct worker *w, struct phase *p) {
    (void)p;
    for (uint64_t end = w->files + settings.count; w->files < end && !due(w); w->files++)
        if (!good(w, create_one(w, name_of("f", w->files), 0))) return;
}

static void do_create4k(struct worker *w, struct phase *p) {
    (void)p;
    for (uint64_t end = w->small + settings.count; w->small < end && !due(w); w->small++)
        if (!good(w, create_one(w, name_of("s", w->small), SMALL))) return;
}

static void do_read4k(struct worker *w, struct phase *p) {
    (void)p;
    for (uint64_t i = 0; i < w->small && !due(w); i++) {
        int fd = openat(w->folder, name_of("s", i), O_RDONLY);
        if (fd >= 0 && read(fd, w->buffer, SMALL) != SMALL) errno = EIO, close(fd), fd = -1;
        if (!good(w, fd < 0 ? -1 : close(fd))) return;
    }
}

static void do_stat(struct worker *w, struct phase *p) {
    struct stat found;
    (void)p;
    for (uint64_t i = 0; i < w->files && !due(w); i++)
        if (!good(w, fstatat(w->folder, name_of("f", i), &found, 0))) return;
}

static void do_lookup(struct worker *w, struct phase *p) { /* of names that aren't there */
    struct stat found;
    (void)p;
    for (uint64_t i = 0; i < settings.count && !due(w); i++) {
        int outcome = fstatat(w->folder, name_of("missing", i), &found, 0);
        if (!good(w, outcome < 0 && errno == ENOENT ? 0 : -1)) return;
    }
}

static void do_getattr(struct worker *w, struct phase *p) {
    struct statx found;
    (void)p;
    for (uint64_t i = 0; i < 4 * settings.count && !due(w); i++)
        if (!good(w, statx(w->folder, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &found))) return;
}

static void do_rename(struct worker *w, struct phase *p) {
    (void)p;
    for (w->renamed = 0; w->renamed < w->files && !due(w); w->renamed++) {
        char old[64];
        strcpy(old, name_of("f", w->renamed));
        if (!good(w, renameat(w->folder, old, w->folder, name_of("r", w->renamed)))) return;
    }
}

static void do_unlink(struct worker *w, struct phase *p) {
    (void)p;
    for (uint64_t i = 0; i < w->files && !due(w); i++)
        if (!good(w, unlinkat(w->folder, name_of(i < w->renamed ? "r" : "f", i), 0))) return;
}

static void do_mkdir(struct worker *w, struct phase *p) {
    (void)p;
    for (uint64_t end = w->folders + settings.count; w->folders < end && !due(w); w->folders++)
        if (!good(w, mkdirat(w->folder, name_of("d", w->folders), 0755))) return;
}

static void do_rmdir(struct worker *w, struct phase *p) {
    (void)p;
    for (uint64_t i = 0; i < w->folders && !due(w); i++)
        if (!good(w, unlinkat(w->folder, name_of("d", i), AT_REMOVEDIR))) return;
}

static void do_fill(struct worker *w, struct phase *p) { /* the folder that `list` lists, made by all together */
    (void)p;
    mkdirat(w->root, "listed", 0755);
    int saved = w->folder;
    w->folder = openat(w->root, "listed", O_RDONLY | O_DIRECTORY);
    /* Thrice the time of a phase: with a server 1 ms away 10,000 files would take minutes, and `list` counts entries. */
    double until = now() + 3 * settings.seconds;
    for (uint64_t i = w->number; i < LISTED && now() < until; i += settings.processes)
        if (!good(w, create_one(w, name_of("entry-", i), 0)) && errno != EEXIST) break;
    close(w->folder);
    w->folder = saved;
}

static void list_folder(struct worker *w, int fd) { /* `ls -l`, not recursive; operations are entries */
    DIR *listing = fdopendir(fd);
    struct dirent *entry;
    struct stat found;
    while (listing && (entry = readdir(listing)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            good(w, fstatat(dirfd(listing), entry->d_name, &found, AT_SYMLINK_NOFOLLOW));
    if (listing) closedir(listing);
}

static void do_list(struct worker *w, struct phase *p) {
    (void)p;
    do list_folder(w, openat(w->root, "listed", O_RDONLY | O_DIRECTORY));
    while (!due(w));
}

static void walk(struct worker *w, int fd) { /* everything below, as `find -ls` */
    DIR *listing = fdopendir(fd);
    struct dirent *entry;
    struct stat found;
    while (listing && (entry = readdir(listing))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (good(w, fstatat(dirfd(listing), entry->d_name, &found, AT_SYMLINK_NOFOLLOW)) && S_ISDIR(found.st_mode))
            walk(w, openat(dirfd(listing), entry->d_name, O_RDONLY | O_DIRECTORY));
    }
    if (listing) closedir(listing);
}

static void do_walk(struct worker *w, struct phase *p) {
    (void)p;
    if (!w->number) walk(w, openat(w->root, ".", O_RDONLY | O_DIRECTORY));
}

static void do_expire(struct worker *w, struct phase *p) {
    (void)p, (void)w;
    usleep(1200000);
}

/* -- data -------------------------------------------------------------------------------------------------------- */

static int open_data(struct worker *w, struct phase *p, int flags) {
    int fd = openat(w->folder, "data", flags | O_CREAT | (p->direct ? O_DIRECT : 0), 0644);
    /* Others' caches are measured, not the kernel's pages. */
    if (fd >= 0) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return fd;
}

static void transfer(struct worker *w, struct phase *p, int writing, int random) {
    uint64_t size = settings.bytes / settings.processes, blocks = size / p->block;
    int fd = open_data(w, p, writing ? O_WRONLY : O_RDONLY);
    if (fd < 0) {
        good(w, -1);
        return;
    }
    if (random) posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    for (uint64_t i = 0; (random || i < blocks) && !(random && due(w)); i++) {
        off_t at = (random ? next_random(w) % blocks : i) * p->block;
        if (writing) memcpy(w->buffer, &at, sizeof at);
        ssize_t done = writing ? pwrite(fd, w->buffer, p->block, at) : pread(fd, w->buffer, p->block, at);
        if (done != (ssize_t)p->block) {
            if (done >= 0) errno = EIO;
            good(w, -1);
            break;
        }
        good(w, 0);
        w->result->bytes += done;
    }
    if (writing && fsync(fd)) good(w, -1);
    if (close(fd)) good(w, -1);
}

static void do_seqwrite(struct worker *w, struct phase *p) { transfer(w, p, 1, 0); }
static void do_seqread(struct worker *w, struct phase *p) { transfer(w, p, 0, 0); }
static void do_randwrite(struct worker *w, struct phase *p) { transfer(w, p, 1, 1); }
static void do_randread(struct worker *w, struct phase *p) { transfer(w, p, 0, 1); }

static const struct {
    const char *name;
    void (*run)(struct worker *, struct phase *);
} PHASES[] = {
    {"create", do_create}, {"create4k", do_create4k}, {"read4k", do_read4k}, {"stat", do_stat}, {"lookup", do_lookup},
    {"getattr", do_getattr}, {"rename", do_rename}, {"unlink", do_unlink}, {"mkdir", do_mkdir}, {"rmdir", do_rmdir},
    {"fill", do_fill}, {"list", do_list}, {"walk", do_walk}, {"expire", do_expire}, {"seqwrite", do_seqwrite},
    {"seqread", do_seqread}, {"randwrite", do_randwrite}, {"randread", do_randread},
};

/* -- the frame --------------------------------------------------------------------------------------------------- */

static struct phase parsed(const char *text) {
    struct phase p = {"", SMALL, 0};
    char how[16] = "";
    if (sscanf(text, "%31[^:]:%zu:%15s", p.name, &p.block, how) < 1 || !p.block) {
        fprintf(stderr, "fuse_load: %s is no PHASE[:BLOCK[:direct]]\n", text);
        exit(2);
    }
    p.direct = !strcmp(how, "direct");
    return p;
}

static void run_phase(struct worker *w, struct phase *p) {
    for (size_t i = 0; i < sizeof PHASES / sizeof *PHASES; i++)
        if (!strcmp(PHASES[i].name, p->name)) {
            PHASES[i].run(w, p);
            return;
        }
    fprintf(stderr, "fuse_load: no phase is called %s\n", p->name);
    exit(2);
}

static void report(const char *text, const struct result *results) {
    struct result all = {1e300, 0, 0, 0, 0, 0};
    for (int i = 0; i < settings.processes; i++) {
        const struct result *one = &results[i];
        if (one->start < all.start) all.start = one->start;
        if (one->end > all.end) all.end = one->end;
        all.operations += one->operations, all.bytes += one->bytes, all.errors += one->errors;
        if (one->first_errno) all.first_errno = one->first_errno;
    }
    printf("{\"phase\": \"%s\", \"processes\": %d, \"seconds\": %.6f, \"operations\": %llu, \"bytes\": %llu, "
           "\"errors\": %llu, \"error\": \"%s\"}\n",
           text, settings.processes, all.end - all.start, (unsigned long long)all.operations,
           (unsigned long long)all.bytes, (unsigned long long)all.errors, all.errors ? strerror(all.first_errno) : "");
    fflush(stdout);
}

static int work(int number, struct shared *shared, int phases, char **texts) {
    char name[32];
    snprintf(name, sizeof name, "p%d", number);
    struct worker w = {.number = number, .seed = 88172645463325252ull + number, .result = &shared->results[number]};
    w.root = open(settings.folder, O_RDONLY | O_DIRECTORY);
    if (w.root < 0 || (mkdirat(w.root, name, 0755) && errno != EEXIST)) return 1;
    w.folder = openat(w.root, name, O_RDONLY | O_DIRECTORY);
    if (w.folder < 0 || posix_memalign((void **)&w.buffer, ALIGN, 16 << 20)) return 1;
    for (size_t i = 0; i < (16 << 20) / sizeof(uint64_t); i++) ((uint64_t *)w.buffer)[i] = next_random(&w);
    for (int i = 0; i < phases; i++) {
        struct phase p = parsed(texts[i]);
        memset(w.result, 0, sizeof *w.result);
        pthread_barrier_wait(&shared->barrier);
        w.result->start = now();
        w.deadline = w.result->start + settings.seconds;
        run_phase(&w, &p);
        w.result->end = now();
        pthread_barrier_wait(&shared->barrier);
        if (!number) report(texts[i], shared->results);
        pthread_barrier_wait(&shared->barrier);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 7) {
        fprintf(stderr, "usage: fuse_load FOLDER PROCESSES SECONDS COUNT BYTES PHASE[:BLOCK[:direct]] ...\n");
        return 2;
    }
    settings = (struct settings){argv[1], atoi(argv[2]), atof(argv[3]), strtoull(argv[4], 0, 10), strtoull(argv[5], 0, 10)};
    if (settings.processes < 1 || settings.processes > MAX_PROCESSES) return 2;
    struct shared *shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t across;
    pthread_barrierattr_init(&across);
    pthread_barrierattr_setpshared(&across, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&shared->barrier, &across, settings.processes);
    int failed = 0, status;
    pid_t children[MAX_PROCESSES], ended;
    for (int i = 0; i < settings.processes; i++)
        if (!(children[i] = fork())) _exit(work(i, shared, argc - 6, argv + 6));
    while ((ended = wait(&status)) > 0)
        for (int i = 0; i < settings.processes; i++) {
            if (children[i] == ended) children[i] = 0;
            if (status && children[i]) kill(children[i], SIGTERM); /* it would wait for the others for ever */
            failed |= status;
        }
    if (failed) fprintf(stderr, "fuse_load: a process could not work in %s\n", settings.folder);
    return failed ? 1 : 0;
}
