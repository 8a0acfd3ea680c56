/* The least that a data type of a module can do: what the server's API costs any module, for `make bench-guard`.
 *
 * FLOOR.GET key: open, check the type, reply. FLOOR.FETCH key: the same, in the shape of CACHE.FETCH's reply with two tags.
 * FLOOR.SET key value PX ms [...]: open, check, copy, set, expire, replicate, reply; further arguments cost what the server
 * does for them. Loaded with the argument `events` it also subscribes to the keyspace events of tagcache, with
 * `filter` to those and has a command filter, as tagcache has during a backlog; neither does anything. Declares what it
 * calls by itself, so that it needs no header of the server's. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef void Ctx, Key, String, Type;

#define READ 1
#define WRITE 2
#define EMPTY 0
/* NOTIFY_GENERIC, _EXPIRED, _EVICTED and _LOADED. */
#define EVENTS (1 << 2 | 1 << 8 | 1 << 9 | 1 << 12)

static int (*SetModuleAttribs)(Ctx *, const char *, int, int);
static int (*CreateCommand)(Ctx *, const char *, int (*)(Ctx *, String **, int), const char *, int, int, int);
static Type *(*CreateDataType)(Ctx *, const char *, int, void *);
static void *(*Alloc)(size_t);
static void (*Free)(void *);
static Key *(*OpenKey)(Ctx *, String *, int);
static void (*CloseKey)(Key *);
static int (*KeyType)(Key *);
static Type *(*ModuleTypeGetType)(Key *);
static void *(*ModuleTypeGetValue)(Key *);
static int (*ModuleTypeSetValue)(Key *, Type *, void *);
static int (*ModuleTypeReplaceValue)(Key *, Type *, void *, void **);
static int (*SetExpire)(Key *, long long);
static long long (*GetAbsExpire)(Key *);
static long long (*Milliseconds)(void);
static const char *(*StringPtrLen)(const String *, size_t *);
static int (*StringToLongLong)(const String *, long long *);
static int (*ReplicateVerbatim)(Ctx *);
static int (*ReplyWithStringBuffer)(Ctx *, const char *, size_t);
static int (*ReplyWithSimpleString)(Ctx *, const char *);
static int (*ReplyWithArray)(Ctx *, long);
static int (*ReplyWithLongLong)(Ctx *, long long);
static int (*ReplyWithNull)(Ctx *);
static int (*ReplyWithError)(Ctx *, const char *);
static int (*WrongArity)(Ctx *);
static int (*SubscribeToKeyspaceEvents)(Ctx *, int, int (*)(Ctx *, int, const char *, String *));
static void *(*RegisterCommandFilter)(Ctx *, void (*)(void *), int);

struct value {
    size_t len;
    char bytes[];
};

struct methods {
    uint64_t version;
    void *rdb_load, *rdb_save, *aof_rewrite, *mem_usage, *digest;
    void (*free)(void *);
};

static Type *type;

static void *load(void *io, int encoding) {
    (void)io, (void)encoding;
    return NULL;
}

static void save(void *io, void *value) {
    (void)io, (void)value;
}

static int read_value(Ctx *ctx, String **argv, int argc, int fetch) {
    if (argc != 2) return WrongArity(ctx);
    Key *key = OpenKey(ctx, argv[1], READ);
    if (KeyType(key) == EMPTY) {
        CloseKey(key);
        return ReplyWithNull(ctx);
    }
    if (ModuleTypeGetType(key) != type) {
        CloseKey(key);
        return ReplyWithError(ctx, "WRONGTYPE");
    }
    struct value *value = ModuleTypeGetValue(key);
    if (fetch) {
        ReplyWithArray(ctx, 5);
        ReplyWithStringBuffer(ctx, "HIT", 3);
    }
    ReplyWithStringBuffer(ctx, value->bytes, value->len);
    if (fetch) {
        ReplyWithLongLong(ctx, GetAbsExpire(key) - Milliseconds());
        ReplyWithLongLong(ctx, 0);
        ReplyWithArray(ctx, 2);
        ReplyWithStringBuffer(ctx, "tenant:007", 10);
        ReplyWithStringBuffer(ctx, "kind:page", 9);
    }
    CloseKey(key);
    return 0;
}

static int get(Ctx *ctx, String **argv, int argc) {
    return read_value(ctx, argv, argc, 0);
}

static int fetch(Ctx *ctx, String **argv, int argc) {
    return read_value(ctx, argv, argc, 1);
}

static int set(Ctx *ctx, String **argv, int argc) {
    long long ms;
    if (argc < 5) return WrongArity(ctx);
    if (StringToLongLong(argv[4], &ms) != 0) return ReplyWithError(ctx, "ERR not an integer");
    Key *key = OpenKey(ctx, argv[1], READ | WRITE);
    int is_new = KeyType(key) == EMPTY;
    if (!is_new && ModuleTypeGetType(key) != type) {
        CloseKey(key);
        return ReplyWithError(ctx, "WRONGTYPE");
    }
    size_t len;
    const char *bytes = StringPtrLen(argv[2], &len);
    struct value *value = Alloc(sizeof *value + len);
    value->len = len;
    memcpy(value->bytes, bytes, len);
    if (is_new) {
        ModuleTypeSetValue(key, type, value);
    } else {
        void *old;
        ModuleTypeReplaceValue(key, type, value, &old);
        Free(old);
    }
    SetExpire(key, ms);
    CloseKey(key);
    ReplicateVerbatim(ctx);
    return ReplyWithSimpleString(ctx, "OK");
}

static int on_event(Ctx *ctx, int class, const char *event, String *key) {
    (void)ctx, (void)class, (void)event, (void)key;
    return 0;
}

static void on_command(void *filter) {
    (void)filter;
}

int RedisModule_OnLoad(Ctx *ctx, String **argv, int argc) {
    /* The context begins with the function that finds all others. */
    int (*find)(const char *, void *) = *(int (**)(const char *, void *))ctx;
#define FIND(name) if (find("RedisModule_" #name, (void *)&name) != 0) return 1
    FIND(SetModuleAttribs);
    FIND(CreateCommand);
    FIND(CreateDataType);
    FIND(Alloc);
    FIND(Free);
    FIND(OpenKey);
    FIND(CloseKey);
    FIND(KeyType);
    FIND(ModuleTypeGetType);
    FIND(ModuleTypeGetValue);
    FIND(ModuleTypeSetValue);
    FIND(ModuleTypeReplaceValue);
    FIND(SetExpire);
    FIND(GetAbsExpire);
    FIND(Milliseconds);
    FIND(StringPtrLen);
    FIND(StringToLongLong);
    FIND(ReplicateVerbatim);
    FIND(ReplyWithStringBuffer);
    FIND(ReplyWithSimpleString);
    FIND(ReplyWithArray);
    FIND(ReplyWithLongLong);
    FIND(ReplyWithNull);
    FIND(ReplyWithError);
    FIND(WrongArity);
    FIND(SubscribeToKeyspaceEvents);
    FIND(RegisterCommandFilter);
    SetModuleAttribs(ctx, "floor", 1, 1);
    struct methods methods = {.version = 1, .rdb_load = load, .rdb_save = save, .free = Free};
    type = CreateDataType(ctx, "floorent1", 1, &methods);
    if (!type) return 1;
    if (CreateCommand(ctx, "floor.get", get, "readonly fast", 1, 1, 1)) return 1;
    if (CreateCommand(ctx, "floor.fetch", fetch, "readonly fast", 1, 1, 1)) return 1;
    if (CreateCommand(ctx, "floor.set", set, "write deny-oom", 1, 1, 1)) return 1;
    if (argc == 0) return 0;
    if (SubscribeToKeyspaceEvents(ctx, EVENTS, on_event)) return 1;
    size_t len;
    const char *what = StringPtrLen(argv[0], &len);
    return len == 6 && !memcmp(what, "filter", 6) && !RegisterCommandFilter(ctx, on_command, 1);
}
