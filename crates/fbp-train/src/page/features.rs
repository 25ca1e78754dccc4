//! Two states of a feature side by side with their difference.

use serde::{Deserialize, Serialize};

use super::html::{escape, number, push};
use super::{Picture, Scale};
use crate::TrainError;

/// Most channels that are drawn: those that change most.
const SHOWN: usize = 25;
/// Most values of a vector that are drawn.
const VALUES: usize = 4096;
/// Width of a picture in CSS pixels that is aimed at.
const WIDTH: usize = 240;
/// Width of a picture file in pixels that is aimed at.
const FILE_WIDTH: usize = 480;

/// A feature before and after a change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    /// Shape `[C, H, W]`.
    pub(crate) shape: [usize; 3],
    /// Values before, channel by channel.
    pub(crate) before: &'a [f32],
    /// Values after.
    pub(crate) after: &'a [f32],
    /// Whether it is an image with brightness 0 to 1.
    pub(crate) image: bool,
}

/// How much one channel of a feature, or one entry of a vector, changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelChange {
    /// Its number, from 0.
    pub channel: usize,
    /// Length of the change.
    pub change: f64,
    /// Its share of the squared length of the whole change, 0 to 1.
    pub share: f64,
    /// Mean value before.
    pub mean_before: f64,
    /// Mean value after.
    pub mean_after: f64,
}

/// What the two states are called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Captions {
    pub(crate) before: &'static str,
    pub(crate) after: &'static str,
}

impl Change<'_> {
    fn plane(&self) -> usize {
        self.shape[1] * self.shape[2]
    }

    /// Difference, after minus before.
    pub(crate) fn difference(&self) -> Vec<f32> {
        self.after.iter().zip(self.before).map(|(after, before)| after - before).collect()
    }

    /// Length of the difference.
    pub(crate) fn distance(&self) -> f64 {
        length(&self.difference())
    }

    /// Length of the difference, relative to that of the feature before; 0 if both are zero.
    pub(crate) fn distance_relative(&self) -> f64 {
        match (self.distance(), length(self.before)) {
            (0.0, _) => 0.0,
            (distance, before) => distance / before.max(f64::MIN_POSITIVE),
        }
    }

    /// Every channel, the most changed one first.
    pub(crate) fn channels(&self) -> Vec<ChannelChange> {
        let (difference, plane) = (self.difference(), self.plane().max(1));
        let whole = length(&difference).powi(2).max(f64::MIN_POSITIVE);
        let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / plane as f64;
        let mut channels: Vec<ChannelChange> = (0..self.shape[0])
            .map(|channel| {
                let part = channel * plane..(channel + 1) * plane;
                let change = length(&difference[part.clone()]);
                let (mean_before, mean_after) = (mean(&self.before[part.clone()]), mean(&self.after[part]));
                ChannelChange { channel, change, share: change * change / whole, mean_before, mean_after }
            })
            .collect();
        channels.sort_by(|a, b| b.change.total_cmp(&a.change));
        channels
    }

    /// The channels that are drawn, in their order.
    fn shown(&self) -> Vec<usize> {
        if self.plane() == 1 {
            return (0..self.shape[0].min(VALUES)).collect();
        }
        let mut shown: Vec<usize> = self.channels().iter().take(SHOWN).map(|entry| entry.channel).collect();
        shown.sort_unstable();
        shown
    }

    /// What stands below the pictures if not every channel is drawn.
    fn left_out(&self) -> Option<String> {
        let (shown, all) = (self.shown().len(), self.shape[0]);
        (shown < all).then(|| match self.plane() {
            1 => format!("The first {shown} of {all} values are drawn."),
            _ => format!("Drawn are the {shown} of {all} channels that change most."),
        })
    }

    /// Before, after and difference; the first two on one scale.
    pub(crate) fn pictures(&self) -> [(Picture, Scale); 3] {
        let difference = self.difference();
        let own = if self.image { Scale::Grey } else { Scale::of_features(&[self.before, self.after]) };
        let (shown, plane) = (self.shown(), self.plane());
        let draw = |values: &[f32], scale: Scale| {
            let blocks: Vec<&[f32]> = shown.iter().map(|channel| &values[channel * plane..][..plane]).collect();
            let sides = [self.shape[1], self.shape[2]];
            (Picture::of_blocks(&blocks, sides, nearly_square(blocks.len()), scale), scale)
        };
        [draw(self.before, own), draw(self.after, own), draw(&difference, Scale::of_difference(&difference))]
    }

    /// The three pictures as files.
    ///
    /// # Errors
    /// [`TrainError::Plot`].
    pub(crate) fn files(&self) -> Result<[Vec<u8>; 3], TrainError> {
        let [before, after, difference] = self.pictures();
        let file = |(picture, scale): (Picture, Scale)| picture.png(scale, (FILE_WIDTH / picture.width).clamp(1, 96));
        Ok([file(before)?, file(after)?, file(difference)?])
    }
}

/// Euclidean length.
fn length(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// The smallest number whose square is at least `n`.
fn nearly_square(n: usize) -> usize {
    let root = n.isqrt();
    if root * root == n { root } else { root + 1 }
}

/// One row: heading, pictures of the two states and of the difference, and their colour scales.
///
/// `heading` and `text` are HTML.
///
/// # Errors
/// [`TrainError::Plot`].
pub(crate) fn change_row(
    html: &mut String,
    [heading, text]: [&str; 2],
    change: &Change<'_>,
    captions: Captions,
) -> Result<(), TrainError> {
    push(html, format_args!("<div class=\"row\"><h5>{heading}</h5><p>{text}</p><div class=\"pictures\">\n"));
    let [before, after, difference] = change.pictures();
    let (own, other) = (before.1, difference.1);
    for ((picture, scale), caption) in
        [before, after, difference].into_iter().zip([captions.before, captions.after, "the difference"])
    {
        let zoom = (WIDTH / picture.width).clamp(1, 24);
        let image = picture.html(scale, zoom, &format!("{heading}: {caption}"))?;
        push(html, format_args!("<figure>{image}<figcaption>{caption}</figcaption></figure>\n"));
    }
    html.push_str("</div>\n<div class=\"legends\">");
    legend(html, own, "both")?;
    legend(html, other, "difference")?;
    html.push_str("</div>\n");
    if let Some(text) = change.left_out() {
        push(html, format_args!("<p class=\"small\">{text}</p>\n"));
    }
    html.push_str("</div>\n");
    Ok(())
}

/// A colour scale with the values of its ends and its middle.
fn legend(html: &mut String, scale: Scale, what: &str) -> Result<(), TrainError> {
    let [low, high] = scale.ends();
    let what = escape(what);
    if low == high {
        push(html, format_args!("<div class=\"legend\"><span>{what}: 0 everywhere</span></div>"));
        return Ok(());
    }
    let [low, middle, high] = [low, 0.5 * (low + high), high].map(|value| number(f64::from(value)));
    let bar = Picture::legend().html(scale, 1, &format!("colour scale of {what}, {low} to {high}"))?;
    push(
        html,
        format_args!(
            "<div class=\"legend\"><span>{what}</span><div>{bar}<div class=\"ticks\"><span>{low}</span>\
             <span>{middle}</span><span>{high}</span></div></div></div>"
        ),
    );
    Ok(())
}

/// An image with its caption, both HTML.
///
/// # Errors
/// [`TrainError::Plot`].
pub(crate) fn image_figure(values: &[f32], shape: [usize; 3], caption: &str) -> Result<String, TrainError> {
    let plane = shape[1] * shape[2];
    let blocks: Vec<&[f32]> = values.chunks(plane.max(1)).take(shape[0]).collect();
    let picture = Picture::of_blocks(&blocks, [shape[1], shape[2]], shape[0].min(4), Scale::Grey);
    let image = picture.html(Scale::Grey, (84 / picture.width).clamp(1, 8), caption)?;
    Ok(format!("<figure>{image}<figcaption>{caption}</figcaption></figure>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<'a>(shape: [usize; 3], before: &'a [f32], after: &'a [f32]) -> Change<'a> {
        Change { shape, before, after, image: false }
    }

    #[test]
    fn channels_are_ranked_by_their_change() {
        let (before, after) = ([0.0, 0.0, 1.0, 1.0, 2.0, 2.0], [0.0, 3.0, 1.0, 1.0, 2.0, 6.0]);
        let channels = change([3, 1, 2], &before, &after).channels();
        assert_eq!(channels.iter().map(|entry| entry.channel).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!((channels[0].change, channels[0].share), (4.0, 0.64));
        assert_eq!((channels[0].mean_before, channels[0].mean_after, channels[2].change), (2.0, 4.0, 0.0));
        let whole = change([3, 1, 2], &before, &after);
        assert!(
            (whole.distance() - 5.0).abs() < 1e-12 && (whole.distance_relative() - 5.0 / 10f64.sqrt()).abs() < 1e-12
        );
        assert_eq!(change([1, 1, 2], &[0.0; 2], &[0.0; 2]).distance_relative(), 0.0);
    }

    #[test]
    fn many_channels_leave_those_out_that_change_least_and_say_so() {
        let before = vec![0.0; 120];
        let mut after = before.clone();
        (0..30).for_each(|channel| after[4 * channel] = ((channel * 7) % 30) as f32);
        let feature = change([30, 2, 2], &before, &after);
        assert_eq!(feature.shown().len(), SHOWN);
        assert!(feature.left_out().unwrap().contains("25 of 30"));
        assert!(feature.shown().iter().all(|&channel| after[4 * channel] >= 5.0));
        assert_eq!(change([120, 1, 1], &before, &after).left_out(), None);
    }

    #[test]
    fn both_states_share_a_scale_and_the_difference_has_its_own() {
        let mut html = String::new();
        let captions = Captions { before: "as it was", after: "as it should have been" };
        let feature = change([1, 1, 2], &[0.0, 3.0], &[0.0, 4.0]);
        change_row(&mut html, ["conv1", ""], &feature, captions).unwrap();
        assert_eq!(html.matches("<figure>").count(), 3);
        assert_eq!(html.matches("class=\"legend\"").count(), 2);
        let [before, after, difference] = feature.pictures().map(|(_, scale)| scale);
        assert_eq!((before, after), (Scale::Sequential { limit: 4.0 }, before));
        assert_eq!(difference, Scale::Diverging { limit: 1.0 });
        assert_eq!(
            feature.files().unwrap().map(|file| file[..4].to_vec()),
            [b"\x89PNG".to_vec(), b"\x89PNG".to_vec(), b"\x89PNG".to_vec()]
        );
    }
}
