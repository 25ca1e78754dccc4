use std::sync::{Mutex, PoisonError};

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};

/// Scratch buffers that are kept between calls, so that a training step allocates none.
///
/// As many buffers exist as calls ever ran at the same time; each grows to the largest request.
#[derive(Debug, Default)]
pub(super) struct ScratchPool {
    free: Mutex<Vec<Buffer>>,
}

struct Buffer {
    bytes: usize,
    memory: MemBuffer,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

impl ScratchPool {
    /// Runs `f` with scratch memory of the given size.
    pub(super) fn with<R>(&self, req: StackReq, f: impl FnOnce(&mut MemStack) -> R) -> R {
        if req.unaligned_bytes_required() == 0 {
            return f(MemStack::new(&mut []));
        }
        let bytes = req.unaligned_bytes_required();
        let last = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = match last {
            Some(buffer) if buffer.bytes >= bytes => buffer,
            _ => Buffer { bytes, memory: MemBuffer::new(req) },
        };
        let result = f(MemStack::new(&mut buffer.memory));
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let pool = ScratchPool::default();
        let size = |bytes| StackReq::new::<u8>(bytes);
        pool.with(size(100), |outer| {
            assert!(outer.len_bytes() >= 100);
            pool.with(size(50), |inner| assert!(inner.len_bytes() >= 50));
        });
        assert_eq!(pool.free.lock().unwrap().len(), 2);
        pool.with(size(80), |stack| assert!(stack.len_bytes() >= 80));
        assert_eq!(pool.free.lock().unwrap().len(), 2);
        pool.with(StackReq::EMPTY, |stack| assert_eq!(stack.len_bytes(), 0));
    }
}
