//! Tags obey key patterns: who may not touch a key of that name may not touch the tag.

use std::ffi::c_int;

use redis_module::raw;

use super::context::Context;
use super::string::{Args, OwnedStr, Str};
use crate::error::Error;

/// What is to be done with a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Refuses tags that the caller's key patterns do not match.
pub(crate) fn check_tags<'t>(
    ctx: &Context<'_>,
    tags: impl Iterator<Item = Str<'t>>,
    access: Access,
) -> Result<(), Error> {
    let Some(user) = User::of(ctx)? else {
        return Ok(());
    };
    for tag in tags {
        user.check(tag, access)?;
    }
    Ok(())
}

/// [`check_tags`] for a command whose arguments are tags from the first on.
pub(crate) fn check_all(ctx: &Context<'_>, args: Args<'_>, access: Access) -> Result<(), Error> {
    check_tags(ctx, args.iter(), access)
}

/// [`check_tags`] for tags of which each is for something else.
pub(crate) fn check_pairs<'t>(
    ctx: &Context<'_>,
    tags: impl Iterator<Item = (&'t [u8], Access)>,
) -> Result<(), Error> {
    let Some(user) = User::of(ctx)? else {
        return Ok(());
    };
    for (tag, access) in tags {
        user.check(OwnedStr::new(tag).as_str(), access)?;
    }
    Ok(())
}

/// Refuses callers that may not write every key.
pub(crate) fn check_everything(ctx: &Context<'_>) -> Result<(), Error> {
    match User::of(ctx)? {
        Some(user) if !user.has_all_keys() => Err(Error::TagNotPermitted),
        _ => Ok(()),
    }
}

/// The user on whose behalf a command runs.
struct User(*mut raw::RedisModuleUser);

impl User {
    /// `None` for what no user asked for: the stream of a primary, a log being loaded, another module.
    fn of(ctx: &Context<'_>) -> Result<Option<Self>, Error> {
        if ctx.is_replay() {
            return Ok(None);
        }
        // SAFETY: the context is alive; names and user are freed, once. Outside of scripts the name is asked for by
        // the client's number, since Redis 7.0 does not check that the client of a context has a user at all; inside,
        // the context's client is the script's, which has no number but always the user of its caller.
        unsafe {
            let name = if ctx.is_script() {
                api!(RedisModule_GetCurrentUserName(ctx.as_raw()))
            } else {
                let client = api!(RedisModule_GetClientId(ctx.as_raw()));
                api!(RedisModule_GetClientUserNameById(ctx.as_raw(), client))
            };
            if name.is_null() {
                return Ok(None);
            }
            let user = api!(RedisModule_GetModuleUserFromUserName(name));
            api!(RedisModule_FreeString(ctx.as_raw(), name));
            if user.is_null() {
                Err(Error::TagNotPermitted)
            } else {
                Ok(Some(Self(user)))
            }
        }
    }
}

impl User {
    fn check(&self, tag: Str<'_>, access: Access) -> Result<(), Error> {
        let flags = match access {
            Access::Read => raw::REDISMODULE_CMD_KEY_ACCESS,
            Access::Write => raw::REDISMODULE_CMD_KEY_DELETE,
        };
        // SAFETY: user and tag are alive.
        let permitted = unsafe {
            api!(RedisModule_ACLCheckKeyPermissions(
                self.0,
                tag.as_raw(),
                flags as c_int
            ))
        };
        if permitted == raw::REDISMODULE_OK as c_int {
            Ok(())
        } else {
            Err(Error::TagNotPermitted)
        }
    }

    /// Whether the user's own rules, selectors left aside, say `~*`.
    fn has_all_keys(&self) -> bool {
        // SAFETY: the user is alive; the string is freed, once. Looked up because the first servers of 7.0 lack it.
        unsafe {
            let Some(describe) = raw::RedisModule_GetModuleUserACLString else {
                return false;
            };
            let rules = describe(self.0);
            if rules.is_null() {
                return false;
            }
            let text = Str::from_raw(rules).bytes();
            let own = text.split(|&byte| byte == b'(').next().unwrap_or_default();
            let has_all = own.split(|&byte| byte == b' ').any(|rule| rule == b"~*");
            api!(RedisModule_FreeString(std::ptr::null_mut(), rules));
            has_all
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: made by `of`; this frees the handle, not the user.
        unsafe { api!(RedisModule_FreeModuleUser(self.0)) };
    }
}
