use super::*;

/// A PNG file that announces a size and has nothing to show.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    png::Encoder::new(&mut file, width, height).write_header().unwrap();
    file
}

#[test]
fn huge_headers_are_refused_before_memory_is_taken() {
    for (width, height) in [(65_535, 65_535), (1 << 30, 1 << 30), (1, u32::MAX >> 1)] {
        let error = decode(&png_of(width, height)).unwrap_err();
        assert_eq!(error, ImageError::TooLarge { width: width as usize, height: height as usize });
        assert!(error.to_string().contains("scale it down"), "{error}");
        assert_eq!(read_header(&png_of(width, height)).unwrap_err(), error);
    }
    assert!(matches!(decode(&png_of(8192, 8192)), Err(ImageError::CutOff { .. } | ImageError::Damaged { .. })));
    // Start of frame with 65,535 × 65,535 pixels, then a scan.
    let frame = [0xff, 0xc0, 0, 11, 8, 0xff, 0xff, 0xff, 0xff, 1, 1, 0x11, 0];
    let jpeg = [&[0xff, 0xd8][..], &frame, &[0xff, 0xda, 0, 2]].concat();
    assert!(matches!(decode(&jpeg), Err(ImageError::TooLarge { width: 65_535, height: 65_535 })));
}

#[test]
fn what_is_no_image_says_what_it_is() {
    let text = decode(b"no picture at all, sorry").unwrap_err();
    assert!(text.to_string().contains("\"no picture a\""), "{text}");
    assert_eq!(decode(&[]), Err(ImageError::Empty));
    assert!(matches!(decode(b"GIF89a"), Err(ImageError::Unknown { .. })));
    let frame = [0xff, 0xd8, 0xff, 0xc0, 0, 11, 8, 0, 0, 0, 5, 1, 1, 0x11, 0, 0xff, 0xda, 0, 2];
    assert_eq!(decode(&frame), Err(ImageError::NoPixels { width: 5, height: 0 }));
    assert!(matches!(decode(&[0xff, 0xd8, 0xff, 0xd9]), Err(ImageError::Damaged { .. })));
    assert!(matches!(decode(&[0xff, 0xd8, 0xff]), Err(ImageError::CutOff { .. })));
}
