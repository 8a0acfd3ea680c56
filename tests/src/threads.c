/* A module whose commands `threads.call command [argument ...]` and `threads.here command [argument ...]` run a command:
   on a thread of its own, or at once. */
#include <pthread.h>
#include <stdlib.h>

typedef void Ctx, String, Blocked, Reply;

/* The functions of the server that it uses. */
#define API(result, name, ...) static result (*name)(__VA_ARGS__)
API(int, CreateCommand, Ctx *, const char *, int (*)(Ctx *, String **, int), const char *, int, int, int);
API(Blocked *, BlockClient, Ctx *, void *, void *, void *, long long);
API(int, UnblockClient, Blocked *, void *);
API(Ctx *, GetThreadSafeContext, Blocked *);
API(void, FreeThreadSafeContext, Ctx *);
API(void, ThreadSafeContextLock, Ctx *);
API(void, ThreadSafeContextUnlock, Ctx *);
API(Reply *, Call, Ctx *, const char *, const char *, ...);
API(int, ReplyWithCallReply, Ctx *, Reply *);
API(void, FreeCallReply, Reply *);
API(String *, CreateStringFromString, Ctx *, String *);
API(const char *, StringPtrLen, String *, size_t *);
API(void, FreeString, Ctx *, String *);
API(int, SetModuleAttribs, Ctx *, const char *, int, int);

struct call {
    Blocked *client;
    int argc;
    String **argv;
};

static int here(Ctx *ctx, String **argv, int argc) {
    const char *name = StringPtrLen(argv[1], NULL);
    Reply *reply = Call(ctx, name, "E!v", argv + 2, (size_t)(argc - 2));
    ReplyWithCallReply(ctx, reply);
    FreeCallReply(reply);
    return 0;
}

static void *run(void *data) {
    struct call *call = data;
    Ctx *ctx = GetThreadSafeContext(call->client);
    ThreadSafeContextLock(ctx);
    here(ctx, call->argv, call->argc);
    for (int at = 0; at < call->argc; at++) FreeString(ctx, call->argv[at]);
    ThreadSafeContextUnlock(ctx);
    FreeThreadSafeContext(ctx);
    UnblockClient(call->client, NULL);
    free(call->argv);
    free(call);
    return NULL;
}

static int begin(Ctx *ctx, String **argv, int argc) {
    struct call *call = malloc(sizeof *call);
    call->client = BlockClient(ctx, NULL, NULL, NULL, 0);
    call->argc = argc;
    call->argv = malloc(argc * sizeof *argv);
    for (int at = 0; at < argc; at++) call->argv[at] = CreateStringFromString(NULL, argv[at]);
    pthread_t thread;
    pthread_create(&thread, NULL, run, call);
    pthread_detach(thread);
    return 0;
}

int RedisModule_OnLoad(Ctx *ctx, String **argv, int argc) {
    int (*get)(const char *, void *) = *(void **)ctx;
#define GET(name) get("RedisModule_" #name, &name)
    GET(CreateCommand), GET(BlockClient), GET(UnblockClient), GET(GetThreadSafeContext), GET(FreeThreadSafeContext);
    GET(ThreadSafeContextLock), GET(ThreadSafeContextUnlock), GET(Call), GET(ReplyWithCallReply), GET(FreeCallReply);
    GET(CreateStringFromString), GET(StringPtrLen), GET(FreeString), GET(SetModuleAttribs);
    SetModuleAttribs(ctx, "threads", 1, 1);
    return CreateCommand(ctx, "threads.call", begin, "write", 0, 0, 0) |
           CreateCommand(ctx, "threads.here", here, "write", 0, 0, 0);
}
