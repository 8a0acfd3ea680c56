//! Catches Ctrl-C and the other signals that end the program, so that it ends in order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Set once the program is asked to end.
pub(crate) type Ended = Arc<AtomicBool>;

/// From now on such a signal only sets the flag that is returned.
pub(crate) fn ended() -> io::Result<Ended> {
    let ended = Ended::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(&ended))?;
    }
    Ok(ended)
}

/// As [`ended`], but a second signal ends the program at once: for work that leaves nothing running behind.
pub(crate) fn ended_or_killed() -> io::Result<Ended> {
    let ended = Ended::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order, or the first signal would end the program already.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&ended))?;
        flag::register(signal, Arc::clone(&ended))?;
    }
    Ok(ended)
}
