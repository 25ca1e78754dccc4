use fbp_linalg::FeatureShape;

/// Shape of `count` tokens of `width` entries.
pub(super) const fn tokens(count: usize, width: usize) -> FeatureShape {
    FeatureShape { channels: count, height: 1, width }
}
