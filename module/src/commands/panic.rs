use crate::error::Error;
use crate::redis::barrier::arm_panic;
use crate::redis::{Args, Context, Place};

/// `CACHE.PANIC command | next-command | reply | unlink | timer | slice | event | save | load | digest | filter | config | change |
/// wait | fetch`: panics at once, or at the next place of that kind. Only in the build that tests the panic barrier.
pub(crate) fn panic(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let place = match args.only()?.bytes() {
        b"command" => panic!("panic on demand"),
        b"next-command" => Place::Command,
        b"reply" => Place::Reply,
        b"slice" => Place::Slice,
        b"filter" => Place::Filter,
        b"config" => Place::Config,
        b"change" => Place::Change,
        b"unlink" => Place::Unlink,
        b"timer" => Place::Timer,
        b"event" => Place::Event,
        b"save" => Place::Save,
        b"load" => Place::Load,
        b"digest" => Place::Digest,
        b"wait" => Place::Wait,
        b"fetch" => Place::Fetch,
        _ => return Err(Error::Syntax),
    };
    arm_panic(place);
    ctx.reply_ok();
    Ok(())
}
