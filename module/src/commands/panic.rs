use crate::error::Error;
use crate::redis::barrier::ARMED;
use crate::redis::{Args, Context};

/// `CACHE.PANIC place`: panics at once for `command`, at the next command for `next-command`, else at the next place of
/// that name ([`Place`](crate::redis::Place)). Only in the build that tests the panic barrier.
pub(crate) fn panic(ctx: &Context<'_>, args: Args<'_>) -> Result<(), Error> {
    let place = args.only()?.bytes();
    assert!(place != b"command", "panic on demand");
    let place = place.strip_prefix(b"next-").unwrap_or(place);
    _ = ARMED
        .write()
        .map(|mut armed| *armed = String::from_utf8_lossy(place).into_owned());
    ctx.reply_ok();
    Ok(())
}
