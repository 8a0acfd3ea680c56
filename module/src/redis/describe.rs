//! Describes a command to the server beyond its name: arity, use of its keys, ACL categories.

use std::ffi::{CStr, CString, c_char, c_int};

use redis_module::commands::{BeginSearch, FindKeys, KeySpec, KeySpecFlags, get_redis_key_spec};
use redis_module::raw;

use super::load::{Command, Keys};
use super::{Context, OK};
use crate::syntax::{self, Arg, Kind};

/// The module's own ACL category, on servers that let modules have one.
const CATEGORY: &CStr = c"cache";

/// Makes the category `@cache`, on servers that know categories of modules. It may exist already, left over from a load
/// that was refused. If there are too many categories, the commands go without it.
pub(super) fn add_category(ctx: &Context<'_>) {
    // SAFETY: the context is that of loading; the function is looked up because older servers lack it.
    unsafe { raw::RedisModule_AddACLCategory.map(|add| add(ctx.as_raw(), CATEGORY.as_ptr())) };
}

pub(super) fn describe(ctx: &Context<'_>, command: &Command) -> Result<(), &'static str> {
    // SAFETY: the context is that of loading.
    let created = unsafe { api!(RedisModule_GetCommand(ctx.as_raw(), command.name.as_ptr())) };
    let mut flags = KeySpecFlags::from_bits_truncate(command.uses as u32);
    let found = match command.keys {
        Keys::None => None,
        Keys::Range(first, last, step) => {
            let last = if last < 0 { last } else { last - first };
            Some((first, FindKeys::new_range(last, step, 0)))
        }
        Keys::NumberedPairs if Context::knows_first_key_only() => {
            Some((2, FindKeys::new_range(0, 1, 0)))
        }
        Keys::NumberedPairs => {
            // Where the server would find too few keys, it asks the command instead. Only there, because Redis 8.6
            // stops on an assertion if it asks while HOTKEYS counts.
            if !ctx.finds_numbered_pairs() {
                flags |= KeySpecFlags::INCOMPLETE;
            }
            Some((1, FindKeys::new_keys_num(0, 1, 2)))
        }
    };
    let mut specs = found.map(|(first, keys)| {
        let first = BeginSearch::new_index(first);
        get_redis_key_spec(vec![KeySpec::new(None, flags, first, keys)])
    });
    let mut pointed = Pointed::default();
    let version = raw::RedisModuleCommandInfoVersion {
        version: 1,
        sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
        sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
        sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
    };
    let info = raw::RedisModuleCommandInfo {
        version: &raw const version,
        summary: command.summary.as_ptr(),
        complexity: command.complexity.as_ptr(),
        since: command.since.as_ptr(),
        history: std::ptr::null_mut(),
        tips: command.tips.map_or(std::ptr::null(), CStr::as_ptr),
        arity: command.arity,
        key_specs: (specs.as_mut()).map_or(std::ptr::null_mut(), Vec::as_mut_ptr),
        args: pointed.list(&syntax::parse(command.syntax)),
    };
    // SAFETY: the command was just created; the server copies what the structure points to, arguments included.
    let taken = unsafe { api!(RedisModule_SetCommandInfo(created, &raw const info)) };
    if taken != OK {
        return Err("the server refused the description of a command");
    }
    // SAFETY: looked up because older servers lack it.
    let Some(set) = (unsafe { raw::RedisModule_SetCommandACLCategories }) else {
        return Ok(());
    };
    let categories = categories(command).join(" ");
    let own = CATEGORY.to_string_lossy();
    for categories in [format!("{own} {categories}"), categories] {
        let categories = CString::new(categories).unwrap_or_default();
        // SAFETY: the command was just created; the text is a C string.
        if unsafe { set(created, categories.as_ptr()) } == OK {
            return Ok(());
        }
    }
    Err("the server refused the ACL categories of a command")
}

/// Holds the data that the server's descriptions of arguments point to.
#[derive(Default)]
struct Pointed {
    texts: Vec<CString>,
    lists: Vec<Vec<raw::RedisModuleCommandArg>>,
}

impl Pointed {
    fn text(&mut self, text: &str) -> *const c_char {
        self.texts.push(CString::new(text).unwrap_or_default());
        self.texts[self.texts.len() - 1].as_ptr()
    }

    /// Null if there are no arguments. The server does not write to them, although it takes a mutable pointer.
    fn list(&mut self, args: &[Arg]) -> *mut raw::RedisModuleCommandArg {
        if args.is_empty() {
            return std::ptr::null_mut();
        }
        let mut list: Vec<_> = args.iter().map(|arg| self.arg(arg)).collect();
        // SAFETY: a structure of numbers and pointers, all of which may be zero: a zeroed one ends the list.
        list.push(unsafe { std::mem::zeroed() });
        let pointer = list.as_mut_ptr();
        self.lists.push(list);
        pointer
    }

    fn arg(&mut self, arg: &Arg) -> raw::RedisModuleCommandArg {
        let mut flags = 0;
        if arg.is_optional {
            flags |= raw::REDISMODULE_CMD_ARG_OPTIONAL;
        }
        if arg.is_multiple {
            flags |= raw::REDISMODULE_CMD_ARG_MULTIPLE;
        }
        let word = arg.word.as_deref();
        raw::RedisModuleCommandArg {
            name: self.text(&arg.name),
            type_: arg.kind as _,
            key_spec_index: if arg.kind == Kind::Key { 0 } else { -1 },
            token: word.map_or(std::ptr::null(), |word| self.text(word)),
            flags: flags as c_int,
            subargs: self.list(&arg.parts),
            // SAFETY: as above.
            ..unsafe { std::mem::zeroed() }
        }
    }
}

/// The server's ACL categories that a command belongs to.
pub(crate) fn categories(command: &Command) -> Vec<&'static str> {
    let flags = command.flags.to_string_lossy();
    let has = |flag| flags.split(' ').any(|given| given == flag);
    let mut categories = Vec::new();
    for (flag, category) in [("write", "write"), ("readonly", "read"), ("admin", "admin")] {
        categories.extend(has(flag).then_some(category));
    }
    categories.extend(has("admin").then_some("dangerous"));
    categories.push(if has("fast") { "fast" } else { "slow" });
    categories
}
