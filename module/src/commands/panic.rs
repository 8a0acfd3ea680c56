use crate::error::Error;
use crate::redis::barrier::arm_panic;
use crate::redis::{Args, Context, Place};

/// `CACHE.PANIC command | unlink | timer | event | save | load | digest | wait | fetch`: panics at once, or in the next callback of
/// that kind. Only in the build that tests the panic barrier.
pub(crate) fn panic(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let place = match args.only()?.bytes() {
        b"command" => panic!("panic on demand"),
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
