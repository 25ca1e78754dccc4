use super::*;

fn ramp(width: usize, height: usize, channels: usize) -> Picture {
    let pixels = (0..width * height * channels).map(|index| (index * 89 % 256) as u8).collect();
    Picture::new(width, height, channels, pixels).unwrap()
}

fn all([width, height]: [usize; 2]) -> Window {
    Window { left: 0, top: 0, width, height }
}

#[test]
fn the_same_size_changes_nothing_but_the_order() {
    let picture = ramp(5, 3, 3);
    let planes = resize(&picture, [5, 3], all([5, 3]), Interpolation::Bicubic);
    for (index, value) in picture.pixels().iter().enumerate() {
        assert_eq!(planes[index % 3 * 15 + index / 3], *value);
    }
}

#[test]
fn a_window_is_a_part_of_the_whole() {
    for (channels, kind) in [(1, Interpolation::Bilinear), (3, Interpolation::Bicubic)] {
        let picture = ramp(23, 17, channels);
        let (size, window) = ([11, 29], Window { left: 4, top: 9, width: 5, height: 13 });
        let (whole, part) = (resize(&picture, size, all(size), kind), resize(&picture, size, window, kind));
        let cut = whole
            .chunks_exact(11 * 29)
            .flat_map(|plane| plane.chunks_exact(11).skip(9).take(13).flat_map(|row| &row[4..9]));
        assert_eq!(part, cut.copied().collect::<Vec<_>>());
        assert!(resize(&picture, size, Window { left: 11, ..window }, kind).is_empty());
        assert_eq!(resize(&picture, size, Window { left: 10, ..window }, kind).len(), channels * 13);
    }
}

#[test]
fn one_value_stays_that_value() {
    for (kind, value) in [(Interpolation::Bilinear, 255), (Interpolation::Bicubic, 0), (Interpolation::Bicubic, 255)] {
        let flat = Picture::new(37, 41, 1, vec![value; 37 * 41]).unwrap();
        assert!(resize(&flat, [13, 99], all([13, 99]), kind).iter().all(|&found| found == value));
    }
}
