/* A libnvidia-ml of ours: the file `scenario` beside this library -> what a driver would answer.
 *
 * The file is read again on every call, so that a test can change the machine while it is being watched. One line each:
 *
 *   init CODE                                what nvmlInit_v2 returns
 *   gpu UUID HANDLE MEMORY TOTAL RESERVED FREE
 *                                            a card: what asking for its handle and for its memory returns, and MiB
 *   mig UUID MEMORY TOTAL RESERVED FREE      an instance of the card above
 *   list CODE                                what asking for the processes of the card or instance above returns
 *   process c|g PID MIB                      a process of the card or instance above; MIB is -1 where it is not told
 *   busy PERCENT                             how busy the card or instance above is; without it, that is not supported
 *   works PID PERCENT AGE                    what a process was seen to do on it, and how many seconds ago
 *   hang CALL                                this call does not return while the line stands here
 *
 * Beside it lie `hanging` while a call hangs, and `crowded` once two calls were ever made at the same time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15, MIB = 1 << 20 };

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long held; unsigned instance, compute; } Process;
typedef struct { char kind; unsigned pid; long long mib; } Listed;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long at; unsigned sm, memory, encoder, decoder; } Work;
typedef struct {
    char uuid[64];
    int parent; /* the card that this is an instance of, or -1 */
    int handle, memory, list;
    unsigned long long total, reserved, free;
    Listed processes[8];
    int process_count;
    int is_told_busy;
    unsigned busy;
    Work works[8];
    unsigned work_count;
} Card;

static Card cards[16];
static int card_count, init_code, counted;
static char hung[64];
static atomic_int inside;

static void beside(const char *name, char *path, size_t size) {
    Dl_info info;
    dladdr((void *)beside, &info);
    const char *slash = strrchr(info.dli_fname, '/');
    snprintf(path, size, "%.*s/%s", (int)(slash - info.dli_fname), info.dli_fname, name);
}

static void mark(const char *name) {
    char path[512];
    beside(name, path, sizeof path);
    FILE *file = fopen(path, "w");
    if (file) fclose(file);
}

static void unmark(const char *name) {
    char path[512];
    beside(name, path, sizeof path);
    unlink(path);
}

static void read_scenario(void) {
    char path[512], line[256], kind;
    card_count = 0, init_code = 0, hung[0] = 0;
    beside("scenario", path, sizeof path);
    FILE *file = fopen(path, "r");
    int card = -1;
    while (file && fgets(line, sizeof line, file)) {
        Card new = {.parent = -1};
        Card *last = card_count ? &cards[card_count - 1] : NULL;
        Listed listed;
        Work work = {0};
        if (sscanf(line, "gpu %63s %d %d %llu %llu %llu", new.uuid, &new.handle, &new.memory, &new.total, &new.reserved,
                   &new.free) == 6) {
            card = card_count;
            cards[card_count++] = new;
        } else if (sscanf(line, "mig %63s %d %llu %llu %llu", new.uuid, &new.memory, &new.total, &new.reserved,
                          &new.free) == 5) {
            new.parent = card;
            cards[card_count++] = new;
        } else if (last && sscanf(line, "process %c %u %lld", &kind, &listed.pid, &listed.mib) == 3) {
            listed.kind = kind;
            last->processes[last->process_count++] = listed;
        } else if (last && sscanf(line, "list %d", &last->list) == 1) {
        } else if (last && sscanf(line, "busy %u", &last->busy) == 1) {
            last->is_told_busy = 1;
        } else if (last && sscanf(line, "works %u %u %llu", &work.pid, &work.sm, &work.at) == 3) {
            work.at = 1000000000000000ULL - work.at * 1000000;
            last->works[last->work_count++] = work;
        } else if (sscanf(line, "init %d", &init_code) == 1 || sscanf(line, "hang %63s", hung) == 1) {
        }
    }
    if (file) fclose(file);
}

static void enter(const char *call) {
    if (atomic_fetch_add(&inside, 1) > 0) mark("crowded");
    read_scenario();
    if (!strcmp(hung, call)) {
        mark("hanging");
        while (!strcmp(hung, call)) {
            usleep(2000);
            read_scenario();
        }
        unmark("hanging");
    }
}

static int leave(int code) {
    atomic_fetch_sub(&inside, 1);
    return code;
}

static Card *card_of(void *device) {
    intptr_t place = (intptr_t)device - 1;
    return place >= 0 && place < card_count ? &cards[place] : NULL;
}

/* The card or instance at this index among those of one parent, as a handle; NULL if there is none. */
static void *at(int parent, unsigned index) {
    for (int place = 0; place < card_count; place++)
        if (cards[place].parent == parent && index-- == 0) return (void *)(intptr_t)(place + 1);
    return NULL;
}

static int count_of(int parent) {
    int count = 0;
    for (int place = 0; place < card_count; place++) count += cards[place].parent == parent;
    return count;
}

/* Cards are counted here and not again: one that goes is lost, and one that comes is not seen, until the next time. */
int nvmlInit_v2(void) {
    enter("init");
    counted = count_of(-1);
    return leave(init_code);
}

int nvmlShutdown(void) { enter("shutdown"); return leave(SUCCESS); }

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    enter("version");
    snprintf(text, size, "580.82.07");
    return leave(SUCCESS);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    enter("count");
    *count = counted;
    return leave(SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    enter("handle");
    *device = at(-1, index);
    return leave(*device ? card_of(*device)->handle : LOST);
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    enter("uuid");
    Card *card = card_of(device);
    if (card) snprintf(text, size, "%s", card->uuid);
    return leave(card ? SUCCESS : INVALID);
}

int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    enter("name");
    snprintf(text, size, "NVIDIA Fake");
    return leave(card_of(device) ? SUCCESS : INVALID);
}

int nvmlDeviceGetMemoryInfo_v2(void *device, Memory *memory) {
    enter("memory");
    Card *card = card_of(device);
    if (!card || memory->version != (sizeof(Memory) | 2 << 24)) return leave(INVALID);
    memory->total = card->total * MIB, memory->reserved = card->reserved * MIB, memory->free = card->free * MIB;
    memory->used = memory->total - memory->free; /* as releases do that count what is reserved as used */
    return leave(card->memory);
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    enter("mig");
    int count = count_of((intptr_t)device - 1);
    *current = *pending = count > 0;
    return leave(count > 0 ? SUCCESS : NOT_SUPPORTED);
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    enter("instances");
    *count = 7;
    return leave(card_of(device) ? SUCCESS : INVALID);
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **instance) {
    enter("instance");
    *instance = at((intptr_t)device - 1, index);
    return leave(*instance ? SUCCESS : NOT_FOUND);
}

static int list(void *device, char kind, unsigned *count, Process *infos) {
    enter("processes");
    Card *card = card_of(device);
    if (!card || card->list) return leave(card ? card->list : INVALID);
    unsigned room = *count, found = 0;
    for (int at = 0; at < card->process_count; at++) {
        Listed *one = &card->processes[at];
        if (one->kind != kind) continue;
        if (infos && found < room)
            infos[found] = (Process){one->pid, one->mib < 0 ? ~0ULL : (unsigned long long)one->mib * MIB, ~0u, ~0u};
        found++;
    }
    *count = found;
    return leave(found > room ? TOO_SMALL : SUCCESS);
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *infos) {
    return list(device, 'c', count, infos);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, Process *infos) {
    return list(device, 'g', count, infos);
}

int nvmlDeviceGetUtilizationRates(void *device, Utilization *utilization) {
    enter("utilization");
    Card *card = card_of(device);
    if (card) *utilization = (Utilization){card->busy, 0};
    return leave(!card ? INVALID : card->is_told_busy ? SUCCESS : NOT_SUPPORTED);
}

int nvmlDeviceGetProcessUtilization(void *device, Work *works, unsigned *count, unsigned long long since) {
    enter("works");
    Card *card = card_of(device);
    if (!card || !card->is_told_busy) return leave(card ? NOT_SUPPORTED : INVALID);
    if (!card->work_count) return leave(NOT_FOUND);
    unsigned room = works ? *count : 0;
    *count = card->work_count;
    if (room < card->work_count) return leave(TOO_SMALL);
    memcpy(works, card->works, card->work_count * sizeof *works);
    return leave(SUCCESS);
}
