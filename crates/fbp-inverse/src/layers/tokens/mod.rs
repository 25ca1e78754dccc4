//! Layers on tokens `[T, D]`: features of shape `[T, 1, D]`, token after token.

mod attention;
mod copies;
mod mean;
mod per_token;
mod position;
mod select;
mod transposition;

pub use attention::Attention;
pub use mean::MeanTokens;
pub use per_token::PerToken;
pub use position::PositionEmbedding;
pub use select::{ClassToken, Padding, SelectToken, ZeroPad2d};
pub use transposition::ImageToTokens;

use fbp_linalg::FeatureShape;

/// Shape of `count` tokens of `width` entries.
const fn tokens(count: usize, width: usize) -> FeatureShape {
    FeatureShape { channels: count, height: 1, width }
}
