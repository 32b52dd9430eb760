//! A doorbell as something that the runtime can wait on.
//!
//! It reads an eventfd as it would read a pipe; unlike `AsyncFd`, that needs no unsafe code. It must be made inside the
//! runtime that waits.

use std::{fs::File, io};

use obleth_link::Doorbell;
use tokio::net::unix::pipe;

/// See the module's text. The bell itself still has to be told who sleeps.
pub(crate) struct AsyncBell(pipe::Receiver);

impl AsyncBell {
    pub(crate) fn of(bell: &Doorbell) -> io::Result<Self> {
        let fd = bell.fd().try_clone_to_owned()?;
        Ok(Self(pipe::Receiver::from_file_unchecked(File::from(fd))?))
    }

    /// Returns when it rang. It may also return when it rang earlier.
    pub(crate) async fn rung(&self) -> io::Result<()> {
        self.0.readable().await?;
        let mut count = [0; 8];
        // Until it would block: only that makes the runtime wait for the next ring.
        while self.0.try_read(&mut count).is_ok() {}
        Ok(())
    }
}
