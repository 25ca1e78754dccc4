//! SIGINT and SIGTERM: the first one asks work to end after its current step, the second one ends the program.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use fbp_train::TrainError;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::CliError;

/// The signal that came first; 0 for none. Empty where nobody asks for it, and signals do what they always do.
static CAME: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From now on signals are not the end, but are told by [`came`]: for work that asks for it between its steps.
///
/// # Errors
/// [`TrainError::Setting`] if the system does not let signals be caught.
pub(crate) fn catch() -> Result<(), CliError> {
    let (came, again) = (CAME.get_or_init(Arc::default), Arc::new(AtomicBool::new(false)));
    let register = || -> io::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            // In this order: what is done at the first signal must not see its own mark.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&again))?;
            flag::register(signal, Arc::clone(&again))?;
            flag::register_usize(signal, Arc::clone(came), signal.unsigned_abs() as usize)?;
        }
        Ok(())
    };
    register().map_err(|error| TrainError::Setting {
        name: "signals",
        value: "SIGINT, SIGTERM".into(),
        reason: format!("cannot be caught: {error}"),
    })?;
    Ok(())
}

/// The signal that has come, if [`catch`] was called before.
pub(crate) fn came() -> Option<u8> {
    let signal = CAME.get()?.load(Ordering::Relaxed);
    u8::try_from(signal).ok().filter(|signal| *signal > 0)
}

/// Exit status of a program that a signal ended, as shells have it.
pub(crate) fn exit_status(signal: u8) -> u8 {
    128_u8.saturating_add(signal)
}
