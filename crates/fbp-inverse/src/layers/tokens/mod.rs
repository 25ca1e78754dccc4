//! Layers on tokens `[T, D]`: features of shape `[T, 1, D]`, token after token.

// From the bottom up: shape; copies; all others.

mod attention;
mod copies;
mod mean;
mod per_token;
mod position;
mod select;
mod shape;
mod transposition;

pub use attention::Attention;
pub use mean::MeanTokens;
pub use per_token::PerToken;
pub use position::PositionEmbedding;
pub use select::{ClassToken, Padding, SelectToken, ZeroPad2d};
pub use transposition::ImageToTokens;
