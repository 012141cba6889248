//! Bytes between sockets. Buffers belong to the worker and are lent to connections while they are
//! active, so an idle connection holds none.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// What a lent buffer can hold before it grows.
pub const BUFFER_BYTES: usize = 16 << 10;

/// The largest buffer that a read fills without a message asking for it.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// How many unused buffers a worker keeps.
const SPARE_MAX: usize = 256;

/// Bytes that were read and not yet taken.
#[derive(Debug, Default)]
pub struct Buffer {
    /// Always initialised over its whole length.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Who counts it as long as it lives.
    count: Option<Rc<Alive>>,
}

/// The buffers of one worker that exist, lent or not.
#[derive(Debug, Default)]
struct Alive {
    count: Cell<usize>,
    bytes: Cell<usize>,
}

impl Alive {
    fn grew(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(alive) = &self.count {
            alive.count.set(alive.count.get() - 1);
            alive.bytes.set(alive.bytes.get() - self.bytes.len());
        }
    }
}

impl Buffer {
    /// What was read and not yet taken.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether it holds no memory: not lent, or given back.
    pub fn is_unbacked(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Takes `n` bytes from the front.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "no more is consumed than was read");
        self.start += n;
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Adds bytes at the end, as if they had been read.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Puts bytes in front of those that are there, to be read once more.
    pub fn put_back(&mut self, bytes: &[u8]) {
        let behind = self.filled().to_vec();
        self.consume(behind.len());
        self.extend(bytes);
        self.extend(&behind);
    }

    /// Makes room for `n` more bytes behind those that are there.
    pub fn reserve(&mut self, n: usize) {
        if self.bytes.len() - self.end >= n {
            return;
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.bytes.len() - self.end < n {
            let wanted = (self.end + n).next_power_of_two().max(BUFFER_BYTES);
            if let Some(alive) = &self.count {
                alive.grew(wanted - self.bytes.len());
            }
            self.bytes.resize(wanted, 0);
        }
    }

    /// Reads once; 0 is the end of the stream. At least `room` bytes of room are made first.
    pub fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        self.reserve(room.max(1));
        let mut buf = ReadBuf::new(&mut self.bytes[self.end..]);
        match Pin::new(stream).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => {
                let n = buf.filled().len();
                self.end += n;
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads once, with more room the more the last reads filled.
    pub fn poll_read_more<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        let free = self.bytes.len() - self.end;
        let room = if free > 0 || self.bytes.len() >= READ_AHEAD_BYTES { 1 } else { self.bytes.len() };
        self.poll_read(cx, stream, room)
    }
}

/// The unused buffers of one worker.
#[derive(Debug, Default)]
pub struct Buffers {
    spare: RefCell<Vec<Buffer>>,
    alive: Rc<Alive>,
}

impl Buffers {
    pub fn lend(&self) -> Buffer {
        match self.spare.borrow_mut().pop() {
            Some(buffer) => buffer,
            None => self.make(),
        }
    }

    #[cold]
    fn make(&self) -> Buffer {
        self.alive.count.set(self.alive.count.get() + 1);
        self.alive.grew(BUFFER_BYTES);
        Buffer { bytes: vec![0; BUFFER_BYTES], start: 0, end: 0, count: Some(Rc::clone(&self.alive)) }
    }

    /// Takes an empty buffer back; one that has grown is let go.
    pub fn give_back(&self, buffer: Buffer) {
        assert!(buffer.is_empty(), "a buffer that still holds bytes is not given back");
        let mut spare = self.spare.borrow_mut();
        if buffer.bytes.len() == BUFFER_BYTES && spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }

    /// How many wait to be lent.
    pub fn spare(&self) -> usize {
        self.spare.borrow().len()
    }

    /// How many are lent.
    pub fn lent(&self) -> usize {
        self.alive.count.get().saturating_sub(self.spare())
    }

    /// The memory of all, lent or not.
    pub fn bytes(&self) -> usize {
        self.alive.bytes.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_counted_wherever_they_end() {
        let buffers = Buffers::default();
        let (mut grown, lost, back) = (buffers.lend(), buffers.lend(), buffers.lend());
        grown.reserve(3 * BUFFER_BYTES);
        assert_eq!((buffers.lent(), buffers.spare(), buffers.bytes()), (3, 0, 6 * BUFFER_BYTES));
        buffers.give_back(back);
        drop(lost);
        assert_eq!((buffers.lent(), buffers.spare(), buffers.bytes()), (1, 1, 5 * BUFFER_BYTES));
        buffers.give_back(grown);
        buffers.give_back(Buffer::default());
        assert_eq!((buffers.lent(), buffers.spare(), buffers.bytes()), (0, 1, BUFFER_BYTES));
        drop(buffers.lend());
        assert_eq!((buffers.lent(), buffers.bytes()), (0, 0));
    }
}
