//! Tags obey key patterns: a user that may not access a key of that name may not access the tag.
//!
//! A user may have selectors: sets of rules that each allow by themselves. As with keys, one and the same set must
//! allow the command and all of its tags. The server reports for a tag only whether *any* set allows it, which is
//! enough for a user without selectors. For other users, this module checks each set in the user's rules as text, which
//! the server keeps.

use std::ffi::{CString, c_int};

use redis_module::raw;
use smallvec::SmallVec;

use super::{Args, Context, OK, OwnedStr, Str};
use crate::error::Error;

/// The access to a tag that a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Access {
    Read = raw::REDISMODULE_CMD_KEY_ACCESS,
    Write = raw::REDISMODULE_CMD_KEY_DELETE,
}

/// The entries that a command reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Entries that carry the tags in the arguments.
    Tags,
    /// Any entry.
    Everything,
}

/// Refuses tags that the caller's key patterns do not match.
pub(crate) fn check_tags(
    ctx: &Context<'_>,
    args: Args<'_>,
    tags: &[&[u8]],
    access: Access,
) -> Result<(), Error> {
    let tags = tags.iter().map(|tag| (*tag, access));
    check_pairs(ctx, args, tags, Reach::Tags)
}

/// [`check_tags`] for tags that need different access, and for a command that may reach every entry.
pub(crate) fn check_pairs<'t>(
    ctx: &Context<'_>,
    args: Args<'_>,
    tags: impl Iterator<Item = (&'t [u8], Access)>,
    reach: Reach,
) -> Result<(), Error> {
    let Some(rules) = Rules::of(ctx)? else {
        return Ok(());
    };
    let tags: Tags = tags
        .map(|(tag, access)| (OwnedStr::new(tag), access))
        .collect();
    if let Some(tag) = rules.refused(&tags) {
        return Err(rules.refuse(ctx, tag));
    }
    let permits = |set: &Vec<&[u8]>| {
        (reach == Reach::Tags || writes_every_key(set))
            && Rules::from_text(set)
                .is_some_and(|rules| rules.permit(args.all()) && rules.refused(&tags).is_none())
    };
    let are_enough = |text: &_| reach == Reach::Tags && !has_selectors(text);
    if rules.text(|text| are_enough(text) || split(text).iter().any(permits)) {
        return Ok(());
    }
    let any = OwnedStr::new(b"*"); // Without a tag, the command needs any key.
    Err(rules.refuse(ctx, tags.first().map_or(&any, |(tag, _)| tag)))
}

/// Whether the caller may use options that otherwise only a primary or a log uses, such as the time when an entry was
/// written: primaries, logs, and users that may run CACHE.REPLAY.
pub(crate) fn may_replay(ctx: &Context<'_>) -> bool {
    ctx.is_replay()
        || Rules::of(ctx).is_ok_and(|rules| {
            let words = ["CACHE.REPLAY", "HISTORY", ""].map(|word| OwnedStr::new(word.as_bytes()));
            let words = words.each_ref().map(OwnedStr::as_str);
            rules.is_none_or(|rules| rules.permit(&words))
        })
}

/// Whether a caller that has waited may still run its command.
pub(crate) fn may_run(ctx: &Context<'_>, args: Args<'_>) -> bool {
    Rules::of(ctx).is_ok_and(|rules| rules.is_none_or(|rules| rules.permit(args.all())))
}

/// Tags, and the access that is needed to each.
type Tags = SmallVec<[(OwnedStr, Access); 8]>;

/// The rules of a user, or one set of them.
struct Rules(*mut raw::RedisModuleUser);

impl Rules {
    /// The rules of the user on whose behalf a command runs; `None` if no user asked for it: the stream of a primary, a
    /// log being loaded, another module.
    fn of(ctx: &Context<'_>) -> Result<Option<Self>, Error> {
        if ctx.is_replay() {
            return Ok(None);
        }
        // SAFETY: the context is alive; the name is freed, once. Outside of scripts the name is looked up by the
        // client's number, because Redis 7.0 and Valkey 8.0 do not check that the client of a context has a user at all.
        // Inside, the context's client is the script's, which has no number but the user of its caller, or that of a call
        // of another module, which has no user.
        unsafe {
            let name = if ctx.is_script() {
                if !ctx.has_user() {
                    return Ok(None);
                }
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

    /// Writes a refusal into ACL LOG, as the server does for a key. Since 7.2 the server counts it in INFO as well.
    fn refuse(&self, ctx: &Context<'_>, object: &OwnedStr) -> Error {
        let (ctx, object) = (ctx.as_raw(), object.as_str().as_raw());
        let reason = raw::RedisModuleACLLogEntryReason_REDISMODULE_ACL_LOG_KEY;
        // SAFETY: context, user and object are alive.
        unsafe {
            api!(RedisModule_ACLAddLogEntry(ctx, self.0, object, reason));
        };
        Error::TagNotPermitted
    }

    /// `None` if the server does not accept the rules.
    fn from_text(rules: &[&[u8]]) -> Option<Self> {
        // SAFETY: the user is freed by its drop; each rule is a C string.
        unsafe {
            let user = Self(api!(RedisModule_CreateModuleUser(c"".as_ptr())));
            for rule in rules {
                let rule = CString::new(*rule).ok()?;
                if api!(RedisModule_SetModuleUserACL(user.0, rule.as_ptr())) != OK {
                    return None;
                }
            }
            Some(user)
        }
    }

    /// Reads all rules, in the server's text form. Empty on servers that do not return them.
    fn text<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: the user is alive; the string is freed, once. Looked up because the first servers of 7.0 lack it.
        unsafe {
            let describe = raw::RedisModule_GetModuleUserACLString;
            let rules = describe.map_or(std::ptr::null_mut(), |describe| describe(self.0));
            if rules.is_null() {
                return read(b"");
            }
            let result = read(Str::from_raw(rules).bytes());
            api!(RedisModule_FreeString(std::ptr::null_mut(), rules));
            result
        }
    }

    /// The first tag that is not permitted.
    fn refused<'t>(&self, tags: &'t Tags) -> Option<&'t OwnedStr> {
        let refused = tags.iter().find(|(tag, access)| {
            let (tag, flags) = (tag.as_str().as_raw(), *access as c_int);
            // SAFETY: user and tag are alive.
            let permitted = unsafe { api!(RedisModule_ACLCheckKeyPermissions(self.0, tag, flags)) };
            permitted != OK
        });
        refused.map(|(tag, _)| tag)
    }

    /// Whether this command is permitted.
    fn permit(&self, words: &[Str<'_>]) -> bool {
        let (argv, argc) = (words.as_ptr().cast_mut().cast(), words.len() as c_int);
        // SAFETY: user and arguments are alive; these are only read.
        let permitted = unsafe { api!(RedisModule_ACLCheckCommandPermissions(self.0, argv, argc)) };
        permitted == OK
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        // SAFETY: made by `of` or `from_text`. For a user that the server knows, this frees only the handle.
        unsafe { api!(RedisModule_FreeModuleUser(self.0)) };
    }
}

/// Whether a user's rules, in the server's text form, contain some in brackets.
fn has_selectors(text: &[u8]) -> bool {
    text.contains(&b'(') && text.windows(2).any(|pair| pair == b" (")
}

/// Splits the rules into the user's own and those in brackets.
fn split(text: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut sets = vec![Vec::new()];
    for rule in text.split(|&byte| byte == b' ') {
        if let Some(first) = rule.strip_prefix(b"(") {
            sets.push(vec![first]);
        } else if let Some(set) = sets.last_mut() {
            set.push(rule);
        }
    }
    for last in sets.iter_mut().skip(1).filter_map(|set| set.last_mut()) {
        *last = last.strip_suffix(b")").unwrap_or(last);
    }
    sets
}

/// Whether a set of rules allows writing every key.
fn writes_every_key(rules: &[&[u8]]) -> bool {
    rules
        .iter()
        .any(|rule| matches!(*rule, b"~*" | b"%W~*" | b"%RW~*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_selectors_are_separated_from_the_root_rules() {
        let sets =
            split(b"on #12 ~* -@all +cache.get (~x:* -@all +cache.invalidate) (%R~y -@all +get)");
        let shown: Vec<Vec<u8>> = sets.iter().map(|set| set.join(&b' ')).collect();
        let expected: [&[u8]; 3] = [
            b"on #12 ~* -@all +cache.get",
            b"~x:* -@all +cache.invalidate",
            b"%R~y -@all +get",
        ];
        assert_eq!(shown, expected);
        assert!(writes_every_key(&sets[0]) && !writes_every_key(&sets[1]));
        assert!(has_selectors(b"on ~* (~x:* +get)") && !has_selectors(b"on ~a(b ~(c +get"));
        assert_eq!(split(b"on ~a) +@all"), [[&b"on"[..], b"~a)", b"+@all"]]);
        assert_eq!(split(b"on (~*) +get)")[1], [&b"~*)"[..], b"+get"]);
    }
}
