//! Tags obey key patterns: who may not touch a key of that name may not touch the tag.

use std::ffi::c_int;

use redis_module::raw;

use super::context::Context;
use super::string::{Args, Str};
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
    let flags = match access {
        Access::Read => raw::REDISMODULE_CMD_KEY_ACCESS,
        Access::Write => raw::REDISMODULE_CMD_KEY_DELETE,
    };
    for tag in tags {
        // SAFETY: user and tag are alive.
        if unsafe {
            api!(RedisModule_ACLCheckKeyPermissions(
                user.0,
                tag.as_raw(),
                flags as c_int
            ))
        } != raw::REDISMODULE_OK as c_int
        {
            return Err(Error::TagNotPermitted);
        }
    }
    Ok(())
}

/// [`check_tags`] for a command whose arguments are tags from the first on.
pub(crate) fn check_all(ctx: &Context<'_>, args: Args<'_>, access: Access) -> Result<(), Error> {
    check_tags(ctx, args.iter(), access)
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

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: made by `of`; this frees the handle, not the user.
        unsafe { api!(RedisModule_FreeModuleUser(self.0)) };
    }
}
