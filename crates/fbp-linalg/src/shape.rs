use std::fmt;

/// Shape `[C, H, W]` of one feature; a plain vector of length `n` is `[n, 1, 1]`.
///
/// A batch of `N` features is a column-major `(C·H·W) × N` matrix, one column per sample, the column in row-major
/// `[C, H, W]` order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeatureShape {
    /// Number of channels `C`.
    pub channels: usize,
    /// Height `H` in pixels.
    pub height: usize,
    /// Width `W` in pixels.
    pub width: usize,
}

impl FeatureShape {
    /// An image of `channels` planes of `height × width` pixels.
    pub const fn image(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// A plain vector of `len` entries.
    pub const fn vector(len: usize) -> Self {
        Self { channels: len, height: 1, width: 1 }
    }

    /// Number of entries of one feature, `C·H·W`; `usize::MAX` where that is more, which no data has.
    // A feature may be empty in a faulty description, which the callers report; "is_empty" would have no other use.
    #[expect(clippy::len_without_is_empty, reason = "a shape is not a collection")]
    pub const fn len(&self) -> usize {
        self.channels.saturating_mul(self.plane())
    }

    /// Number of pixels of one channel, `H·W`.
    pub const fn plane(&self) -> usize {
        self.height.saturating_mul(self.width)
    }
}

impl fmt::Display for FeatureShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}, {}]", self.channels, self.height, self.width)
    }
}
