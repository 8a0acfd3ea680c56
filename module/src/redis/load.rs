//! Loading the module: API, settings, data type, commands, events.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use redis_module::raw;

use super::{
    Args, Context, ERR, OK, Place, context, copies, data_type, describe, events, guard, info, log,
    propagation, sizes, state,
};
use crate::COMMANDS;
use crate::config::{self, Config, SETTINGS, Setting};

const NAME: &CStr = c"tagcache";
const API: c_int = raw::REDISMODULE_APIVER_1 as c_int;

/// Version as the server shows it in MODULE LIST: major, minor and patch, two digits each.
fn version() -> c_int {
    let numbers = env!("CARGO_PKG_VERSION").split('.');
    let numbers = numbers.map(|number| number.parse().unwrap_or(0));
    numbers.fold(0, |version, number: c_int| 100 * version + number)
}

/// How a command uses the keys among its arguments, for ACL rules and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Use {
    Nothing = 0,
    Read = raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_ACCESS,
    /// Replaces the value without returning anything of the old one.
    Write = raw::REDISMODULE_CMD_KEY_OW | raw::REDISMODULE_CMD_KEY_UPDATE,
    Change = raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_UPDATE,
    Remove = raw::REDISMODULE_CMD_KEY_RM | raw::REDISMODULE_CMD_KEY_DELETE,
    /// Returns the value and removes it.
    Take = raw::REDISMODULE_CMD_KEY_RW
        | raw::REDISMODULE_CMD_KEY_ACCESS
        | raw::REDISMODULE_CMD_KEY_DELETE,
}

/// Which arguments of a command are keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    None,
    /// First, last (negative: from the end) and step.
    Range(c_int, c_int, c_int),
    /// The first argument is the number of keys, each of which is followed by its value.
    NumberedPairs,
}

/// A row of the table of commands.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static CStr,
    /// The function that the server calls. It is made by `command!`, and runs the command's body.
    pub(crate) entry: raw::RedisModuleCmdFunc,
    pub(crate) flags: &'static CStr,
    pub(crate) keys: Keys,
    pub(crate) uses: Use,
    /// Number of arguments, the name included; negative: at least this many.
    pub(crate) arity: c_int,
    /// Its arguments, as the reference writes them.
    pub(crate) syntax: &'static str,
    /// How a client of a cluster routes the command, where keys do not decide it.
    pub(crate) tips: Option<&'static CStr>,
    /// The version in which the command appeared.
    pub(crate) since: &'static CStr,
    pub(crate) complexity: &'static CStr,
    pub(crate) summary: &'static CStr,
}

/// Makes a row of the table of commands from the function that runs and the other fields.
macro_rules! command {
    { run: $body:path, $($fields:tt)+ } => {{
        unsafe extern "C" fn entry(
            ctx: *mut redis_module::raw::RedisModuleCtx,
            argv: *mut *mut redis_module::raw::RedisModuleString,
            argc: std::ffi::c_int,
        ) -> std::ffi::c_int {
            // SAFETY: the arguments are passed on as the server gave them.
            unsafe { $crate::redis::barrier::command(ctx, argv, argc, $body) }
        }
        $crate::redis::Command { entry: Some(entry), $($fields)+ }
    }};
}
pub(crate) use command;

/// The server calls this to start the module. Registers name, version and API; then everything else, which may allocate
/// and therefore comes after.
///
/// # Safety
/// Called by the server, which passes its own context and arguments.
#[unsafe(no_mangle)]
#[allow(
    non_snake_case,
    unreachable_pub,
    reason = "the name is the server's, and it looks it up as a symbol"
)]
pub unsafe extern "C" fn RedisModule_OnLoad(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    // SAFETY: the server passes a live context.
    let made = unsafe { raw::Export_RedisModule_Init(ctx, NAME.as_ptr(), version(), API) };
    if made == ERR {
        return ERR;
    }
    let loaded = guard(Place::Other, Err("internal error".to_owned()), || {
        if !super::often::look_up() {
            return Err("the server is too old".to_owned());
        }
        // Message and place of a panic go to the server's log as well.
        std::panic::set_hook(Box::new(|info| log(&info.to_string().replace('\n', " "))));
        // The server passes null where there are no arguments, but even an empty slice must not begin at null.
        let argv = if argc == 0 {
            std::ptr::dangling_mut()
        } else {
            argv
        };
        // SAFETY: the server passes live arguments; here, all words are arguments, without a name before them.
        let (ctx, args) = unsafe { (Context::from_raw(ctx), Args::from_raw(argv, argc)) };
        let words: Vec<&[u8]> = args.all().iter().map(|arg| arg.bytes()).collect();
        start(&ctx, &config::from_args(&words)?, COMMANDS).map_err(str::to_owned)
    });
    match loaded {
        Ok(()) => OK,
        Err(reason) => {
            log(&format!("not loaded: {reason}"));
            release();
            ERR
        }
    }
}

/// Called by a server that takes back a load that the module did not refuse. No server unloads the module later,
/// because its data type forbids that.
#[unsafe(no_mangle)]
#[allow(non_snake_case, unreachable_pub, reason = "as above")]
pub extern "C" fn RedisModule_OnUnload(_ctx: *mut raw::RedisModuleCtx) -> c_int {
    release();
    OK
}

/// Frees everything that was made since the load began, because the server closes the library next.
fn release() {
    guard(Place::Other, (), || {
        state::end();
        context::release();
    });
}

fn start(ctx: &Context<'_>, config: &Config, commands: &[Command]) -> Result<(), &'static str> {
    sizes::probe(ctx);
    state::init(*config, context::random());
    let (now, monotonic) = (context::now_ms(), context::monotonic_ms());
    state::with(|state| state.watch_clock(now, monotonic));
    context::make_own(ctx);
    context::choose_options(ctx);
    context::probe_modes();
    context::keep_replies();
    // First of the steps that the server may refuse: servers keep the data type of a module that is not loaded.
    register_settings(ctx, config)?;
    data_type::register(ctx)?;
    describe::add_category(ctx);
    for command in commands {
        let mut flags = command.flags.to_owned();
        if Context::knows_first_key_only() {
            let kept = flags.to_string_lossy().replace(" getkeys-api", "");
            flags = CString::new(kept).unwrap_or_default();
        }
        // [`describe`] declares where its keys are.
        // SAFETY: the context is that of loading; the server copies name and flags.
        let created = unsafe {
            api!(RedisModule_CreateCommand(
                ctx.as_raw(),
                command.name.as_ptr(),
                command.entry,
                flags.as_ptr(),
                0,
                0,
                0
            ))
        };
        if created != OK {
            return Err("a command's name is taken");
        }
        describe::describe(ctx, command)?;
    }
    propagation::look_again(ctx);
    info::register(ctx);
    // Last, after all steps that may be refused: Redis 7.0 keeps subscriptions of a module that it did not load.
    events::subscribe(ctx)?;
    copies::watch(ctx);
    Ok(())
}

/// The version of the data type's table of callbacks that the server knows.
pub(super) fn type_method_version() -> c_int {
    // SAFETY: takes nothing.
    unsafe { api!(RedisModule_GetTypeMethodVersion()) }
}

/// Makes the settings known to CONFIG GET and CONFIG SET.
fn register_settings(ctx: &Context<'_>, config: &Config) -> Result<(), &'static str> {
    let flags = raw::REDISMODULE_CONFIG_DEFAULT as c_uint;
    for setting in SETTINGS {
        let (name, value) = (setting.name.as_ptr(), (setting.get)(config));
        let data = std::ptr::from_ref(setting).cast_mut().cast();
        let mut words: Vec<_> = setting.words.iter().map(|word| word.as_ptr()).collect();
        let numbers: Vec<c_int> = (0..words.len() as c_int).collect();
        // SAFETY: the context is that of loading; the setting is static, and comes back to the callbacks. The server
        // copies names and values.
        let registered = unsafe {
            if words.is_empty() {
                api!(RedisModule_RegisterNumericConfig(
                    ctx.as_raw(),
                    name,
                    value,
                    flags,
                    setting.min,
                    setting.max,
                    Some(get_setting),
                    Some(set_setting),
                    None,
                    data
                ))
            } else {
                api!(RedisModule_RegisterEnumConfig(
                    ctx.as_raw(),
                    name,
                    value as c_int,
                    flags,
                    words.as_mut_ptr(),
                    numbers.as_ptr(),
                    words.len() as c_int,
                    Some(get_setting),
                    Some(set_setting),
                    None,
                    data
                ))
            }
        };
        if registered != OK {
            return Err("the server refused a setting");
        }
    }
    // SAFETY: the context is that of loading. This sets each setting to its value in the configuration file.
    if unsafe { api!(RedisModule_LoadConfigs(ctx.as_raw())) } != OK {
        return Err("the configuration file has a bad value for one of the settings");
    }
    Ok(())
}

/// Callback for settings that are numbers or words; the two differ only in the type.
unsafe extern "C" fn get_setting<N: TryFrom<i64> + Default>(
    _name: *const c_char,
    data: *mut c_void,
) -> N {
    guard(Place::Config, N::default(), || {
        // SAFETY: the server passes what was registered, one of the static settings.
        let setting = unsafe { &*data.cast::<Setting>() };
        let value = state::with(|state| (setting.get)(&state.config));
        N::try_from(value).unwrap_or_default()
    })
}

unsafe extern "C" fn set_setting<N: Into<i64>>(
    _name: *const c_char,
    value: N,
    data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    let value = value.into();
    // The server has checked the range, and names it in its error.
    guard(Place::Config, ERR, || {
        // SAFETY: as above.
        let setting = unsafe { &*data.cast::<Setting>() };
        state::with(|state| (setting.set)(&mut state.config, value));
        OK
    })
}
