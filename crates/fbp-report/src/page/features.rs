//! Two states of a feature side by side with their difference.

use fbp_train::explain::Change;

use super::html::{escape, number, push};
use super::{Picture, Scale};
use crate::ReportError;

/// Most channels that are drawn: those that change most.
const SHOWN: usize = 25;
/// Most values of a vector that are drawn.
const VALUES: usize = 4096;
/// Width of a picture in CSS pixels that is aimed at.
const WIDTH: usize = 240;
/// Width of a picture file in pixels that is aimed at.
const FILE_WIDTH: usize = 480;

/// What the two states are called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Captions {
    pub(crate) before: &'static str,
    pub(crate) after: &'static str,
}

/// The channels that are drawn, in their order.
fn shown(change: &Change<'_>) -> Vec<usize> {
    if change.plane() == 1 {
        return (0..change.shape[0].min(VALUES)).collect();
    }
    let mut shown: Vec<usize> = change.channels().iter().take(SHOWN).map(|entry| entry.channel).collect();
    shown.sort_unstable();
    shown
}

/// What stands below the pictures if not every channel is drawn.
fn left_out(change: &Change<'_>) -> Option<String> {
    let (shown, all) = (shown(change).len(), change.shape[0]);
    (shown < all).then(|| match change.plane() {
        1 => format!("The first {shown} of {all} values are drawn."),
        _ => format!("Drawn are the {shown} of {all} channels that change most."),
    })
}

/// Before, after and difference; the first two on one scale.
pub(crate) fn pictures(change: &Change<'_>) -> [(Picture, Scale); 3] {
    let difference = change.difference();
    let own = match change.image {
        true if is_colour(change.shape) => Scale::Colours,
        true => Scale::Grey,
        false => Scale::of_features(&[change.before, change.after]),
    };
    let (shown, plane) = (shown(change), change.plane());
    let draw = |values: &[f32], scale: Scale| {
        let sides = [change.shape[1], change.shape[2]];
        if scale == Scale::Colours {
            return (Picture::of_colours(values, sides), scale);
        }
        let blocks: Vec<&[f32]> = shown.iter().map(|channel| &values[channel * plane..][..plane]).collect();
        (Picture::of_blocks(&blocks, sides, nearly_square(blocks.len()), scale), scale)
    };
    [draw(change.before, own), draw(change.after, own), draw(&difference, Scale::of_difference(&difference))]
}

/// Whether an image of this shape has red, green and blue.
fn is_colour([channels, height, width]: [usize; 3]) -> bool {
    channels == 3 && height * width > 1
}

/// The three pictures as files.
///
/// # Errors
/// [`ReportError::Plot`].
pub(crate) fn picture_files(change: &Change<'_>) -> Result<[Vec<u8>; 3], ReportError> {
    let [before, after, difference] = pictures(change);
    let file = |(picture, scale): (Picture, Scale)| picture.png(scale, (FILE_WIDTH / picture.width).clamp(1, 96));
    Ok([file(before)?, file(after)?, file(difference)?])
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
/// [`ReportError::Plot`].
pub(crate) fn change_row(
    html: &mut String,
    [heading, text]: [&str; 2],
    change: &Change<'_>,
    captions: Captions,
) -> Result<(), ReportError> {
    push(html, format_args!("<div class=\"row\"><h5>{heading}</h5><p>{text}</p><div class=\"pictures\">\n"));
    let [before, after, difference] = pictures(change);
    let (own, other) = (before.1, difference.1);
    for ((picture, scale), caption) in
        [before, after, difference].into_iter().zip([captions.before, captions.after, "the difference"])
    {
        let zoom = (WIDTH / picture.width).clamp(1, 24);
        let image = picture.html(scale, zoom, &format!("{heading}: {caption}"))?;
        push(html, format_args!("<figure>{image}<figcaption>{caption}</figcaption></figure>\n"));
    }
    html.push_str("</div>\n<div class=\"legends\">");
    if own != Scale::Colours {
        legend(html, own, "both")?;
    }
    let what = if own == Scale::Colours { "difference of red, green and blue" } else { "difference" };
    legend(html, other, what)?;
    html.push_str("</div>\n");
    if let Some(text) = left_out(change) {
        push(html, format_args!("<p class=\"small\">{text}</p>\n"));
    }
    html.push_str("</div>\n");
    Ok(())
}

/// A colour scale with the values of its ends and its middle.
fn legend(html: &mut String, scale: Scale, what: &str) -> Result<(), ReportError> {
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
/// [`ReportError::Plot`].
pub(crate) fn image_figure(values: &[f32], shape: [usize; 3], caption: &str) -> Result<String, ReportError> {
    let (plane, sides) = (shape[1] * shape[2], [shape[1], shape[2]]);
    let blocks: Vec<&[f32]> = values.chunks(plane.max(1)).take(shape[0]).collect();
    let (picture, scale) = match is_colour(shape) {
        true => (Picture::of_colours(values, sides), Scale::Colours),
        false => (Picture::of_blocks(&blocks, sides, shape[0].min(4), Scale::Grey), Scale::Grey),
    };
    let image = picture.html(scale, (84 / picture.width).clamp(1, 8), caption)?;
    Ok(format!("<figure>{image}<figcaption>{caption}</figcaption></figure>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<'a>(shape: [usize; 3], before: &'a [f32], after: &'a [f32]) -> Change<'a> {
        Change { shape, before, after, image: false }
    }

    #[test]
    fn many_channels_leave_those_out_that_change_least_and_say_so() {
        let before = vec![0.0; 120];
        let mut after = before.clone();
        (0..30).for_each(|channel| after[4 * channel] = ((channel * 7) % 30) as f32);
        let feature = change([30, 2, 2], &before, &after);
        assert_eq!(shown(&feature).len(), SHOWN);
        assert!(left_out(&feature).unwrap().contains("25 of 30"));
        assert!(shown(&feature).iter().all(|&channel| after[4 * channel] >= 5.0));
        assert_eq!(left_out(&change([120, 1, 1], &before, &after)), None);
    }

    #[test]
    fn images_in_colour_are_one_picture_and_their_difference_three() {
        let feature = Change { image: true, ..change([3, 2, 2], &[0.5; 12], &[0.25; 12]) };
        let [before, after, difference] = pictures(&feature);
        assert_eq!((before.0.width, before.0.height, before.1), (2, 2, Scale::Colours));
        assert_eq!(after.0.width, 2);
        assert_eq!((difference.0.width, difference.1), (5, Scale::Diverging { limit: 0.25 }));
        let mut html = String::new();
        change_row(&mut html, ["image", ""], &feature, Captions { before: "a", after: "b" }).unwrap();
        assert_eq!(html.matches("class=\"legend\"").count(), 1);
        assert!(image_figure(&[0.5; 12], [3, 2, 2], "an image").unwrap().contains("width=\"16\""));
    }

    #[test]
    fn both_states_share_a_scale_and_the_difference_has_its_own() {
        let mut html = String::new();
        let captions = Captions { before: "as it was", after: "as it should have been" };
        let feature = change([1, 1, 2], &[0.0, 3.0], &[0.0, 4.0]);
        change_row(&mut html, ["conv1", ""], &feature, captions).unwrap();
        assert_eq!(html.matches("<figure>").count(), 3);
        assert_eq!(html.matches("class=\"legend\"").count(), 2);
        let [before, after, difference] = pictures(&feature).map(|(_, scale)| scale);
        assert_eq!((before, after), (Scale::Sequential { limit: 4.0 }, before));
        assert_eq!(difference, Scale::Diverging { limit: 1.0 });
        assert_eq!(
            picture_files(&feature).unwrap().map(|file| file[..4].to_vec()),
            [b"\x89PNG".to_vec(), b"\x89PNG".to_vec(), b"\x89PNG".to_vec()]
        );
    }
}
