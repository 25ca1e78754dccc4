use std::fs;

use tempfile::TempDir;

use super::*;
use crate::progress::Silent;

/// A grey image whose pixels follow from a number.
fn image(number: usize, [width, height]: [usize; 2], channels: usize) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height * channels).map(|index| (index * 31 + number * 17) as u8).collect();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(if channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    file
}

/// Folders `train` and `val` with some images of classes `cat` and `dog`, and a place for the cache.
struct World {
    folder: TempDir,
    cache: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() };
        for (part, count) in [("train", 3), ("val", 2)] {
            for (label, class) in ["cat", "dog"].into_iter().enumerate() {
                for number in 0..count {
                    world.write(&format!("{part}/{class}/{number}.png"), &image(number + 10 * label, [4, 3], 1));
                }
            }
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn load(&self, options: ImageOptions) -> Result<DataBundle, DataError> {
        let options = ImageOptions { cache: Some(self.cache.path().to_owned()), ..options };
        load(self.folder.path(), "folder", &options, &Silent)
    }

    fn plain(&self) -> Result<DataBundle, DataError> {
        self.load(ImageOptions::default())
    }

    fn fails(&self, parts: &[&str]) {
        let error = self.plain().unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in {error:?}"));
    }

    fn cached(&self) -> usize {
        fs::read_dir(self.cache.path()).unwrap().count()
    }
}

fn sized(size: [usize; 2]) -> ImageOptions {
    ImageOptions { size: Some(ImageSize { size, resizing: Resizing::default() }), ..ImageOptions::default() }
}

#[test]
fn images_of_one_size_are_read_as_they_are_and_kept() {
    let world = World::new();
    let data = world.plain().unwrap();
    assert_eq!((data.train.len(), data.test.len(), data.train.classes()), (6, 4, 2));
    assert_eq!(data.train.shape(), fbp_linalg::FeatureShape::image(1, 3, 4));
    assert_eq!((data.train.labels(), data.test.labels()), (&[0, 1, 0, 1, 0, 1][..], &[0, 1, 0, 1][..]));
    assert_eq!(data.class_names, ["cat", "dog"]);
    let pixels: Vec<u8> = (0..12).map(|index| (index * 31 + 12 * 17) as u8).collect();
    assert_eq!(data.train.image(5).unwrap(), pixels);
    assert!(data.train.is_mapped() && data.resizing.is_none());
    // The same data in memory are the same data.
    let all = (0..6).flat_map(|index| data.train.image(index).unwrap().to_vec()).collect();
    let memory = Dataset::new("folder (training)", data.train.shape(), 2, all, data.train.labels().to_vec()).unwrap();
    assert_eq!((&memory, memory.sha256()), (&data.train, data.train.sha256()));
    assert_eq!(Normalization::from_images(&memory).unwrap(), data.normalization);
    assert_eq!(memory.subset(&[4, 1]).unwrap(), data.train.subset(&[4, 1]).unwrap());
    // Nothing is decoded again, until a file changes.
    assert_eq!(world.cached(), 2);
    let before = fs::metadata(fs::read_dir(world.cache.path()).unwrap().next().unwrap().unwrap().path()).unwrap();
    assert_eq!(world.plain().unwrap().train, data.train);
    let after = fs::metadata(fs::read_dir(world.cache.path()).unwrap().next().unwrap().unwrap().path()).unwrap();
    assert_eq!((world.cached(), before.modified().unwrap()), (2, after.modified().unwrap()));
    world.write("val/cat/0.png", &image(77, [4, 3], 1));
    assert_ne!(world.plain().unwrap().test, data.test);
    assert_eq!(world.cached(), 4);
    // A damaged file is none.
    for entry in fs::read_dir(world.cache.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    }
    assert_eq!(world.plain().unwrap().train, data.train);
}

#[test]
fn images_of_many_sizes_need_one() {
    let world = World::new();
    world.write("train/dog/9.png", &image(3, [9, 5], 3));
    world.fails(&["0.png has 4 × 3", "9.png has 9 × 5", "--size N"]);
    let data = world.load(sized([6, 7])).unwrap();
    assert_eq!(data.train.shape(), fbp_linalg::FeatureShape::image(3, 6, 7));
    assert_eq!(data.resizing, Some(Resizing::default()));
    let grey = world.load(ImageOptions { channels: Some(1), ..sized([6, 7]) }).unwrap();
    assert_eq!(grey.train.shape().channels, 1);
    assert_eq!(data.preprocessing().unwrap().resizing(), data.resizing);
}

#[test]
fn a_broken_image_is_named_or_counted() {
    let world = World::new();
    world.write("train/cat/broken.jpg", b"not an image");
    world.fails(&["train/cat/broken.jpg", "neither a JPEG nor a PNG", "--skip-broken"]);
    let whole = image(1, [4, 3], 1);
    world.write("val/dog/cut.png", &whole[..whole.len() - 20]);
    for options in [ImageOptions::default(), sized([3, 4])] {
        let data = world.load(ImageOptions { skip_broken: true, ..options }).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (6, 4));
        assert_eq!(data.broken, [world.path("train/cat/broken.jpg"), world.path("val/dog/cut.png")]);
    }
    for class in ["cat", "dog"] {
        for number in 0..2 {
            world.write(&format!("val/{class}/{number}.png"), b"");
        }
    }
    let error = world.load(ImageOptions { skip_broken: true, ..ImageOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("val: every image file is broken"), "{error}");
    // No image of a part is left in the cache.
    assert_eq!(
        fs::read_dir(world.cache.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_none())
            .count(),
        0
    );
}

#[test]
fn one_broken_image_of_ten_thousand_is_found() {
    let world = World { folder: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() };
    let whole = image(5, [2, 2], 1);
    for number in 0..9_998 {
        world.write(&format!("train/{}/{number}.png", number % 7), &whole);
        if number < 7 {
            world.write(&format!("val/{number}/{number}.png"), &whole);
        }
    }
    world.write("train/3/broken.png", &whole[..30]);
    world.fails(&["train/3/broken.png", "cut off", "--skip-broken"]);
    let data = world.load(ImageOptions { skip_broken: true, ..ImageOptions::default() }).unwrap();
    assert_eq!((data.train.len(), data.test.len()), (9_998, 7));
    assert_eq!(data.broken, [world.path("train/3/broken.png")]);
}

#[test]
fn names_do_not_matter_and_what_stands_beside_images_is_left_alone() {
    let world = World::new();
    fs::rename(world.path("train/cat/0.png"), world.path("train/cat/0.JPEG")).unwrap();
    world.write("train/cat/boxes.txt", b"0 0 3 3");
    world.write("train/cat/.DS_Store", b"x");
    world.write("train/list.csv", b"x");
    world.write("train/dog/more/deep/7.png", &image(3, [4, 3], 1));
    assert_eq!(world.plain().unwrap().train.len(), 7);
    // As an archive unpacks.
    let outer = World { folder: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() };
    fs::rename(world.folder.path(), outer.path("imagenette2-160")).unwrap();
    assert_eq!(outer.plain().unwrap().train.len(), 7);
    fs::create_dir_all(world.folder.path()).unwrap();
}

#[test]
fn folders_that_hold_no_classes_say_so() {
    let world = World::new();
    world.write("train/cow/notes.txt", b"moo");
    world.fails(&["train", "val", "differ", "cow only in"]);
    world.write("val/cow/0.png", &image(0, [4, 3], 1));
    world.fails(&["train/cow", "no image file"]);
    fs::remove_dir_all(world.path("train/cow")).unwrap();
    world.fails(&["cow only in", "val"]);
    fs::remove_dir_all(world.path("val/cow")).unwrap();
    world.plain().unwrap();
    fs::rename(world.path("val"), world.path("validation")).unwrap();
    world.plain().unwrap();
    fs::remove_dir_all(world.path("train/dog")).unwrap();
    world.fails(&["train: 1 class folders", "at least 2"]);
    fs::rename(world.path("validation"), world.path("other")).unwrap();
    world.fails(&["no folder val"]);
    fs::rename(world.path("train"), world.path("training")).unwrap();
    world.fails(&["no folder train"]);
}

#[test]
fn tiny_imagenet_says_in_a_file_what_its_validation_images_are() {
    let world = World::new();
    fs::remove_dir_all(world.path("val")).unwrap();
    for class in ["cat", "dog"] {
        fs::rename(world.path(&format!("train/{class}")), world.path("moved")).unwrap();
        fs::create_dir(world.path(&format!("train/{class}"))).unwrap();
        fs::rename(world.path("moved"), world.path(&format!("train/{class}/images"))).unwrap();
    }
    for number in 0..3 {
        world.write(&format!("val/images/val_{number}.JPEG"), &image(number, [4, 3], 1));
    }
    let lines = "val_0.JPEG\tdog\t0\t0\t2\t2\nval_1.JPEG\tcat\t0\t0\t2\t2\nval_2.JPEG\tdog\t1\t1\t2\t2\n";
    world.write("val/val_annotations.txt", lines.as_bytes());
    let data = world.plain().unwrap();
    assert_eq!((data.train.len(), data.test.labels()), (6, &[1, 0, 1][..]));
    world.write("val/val_annotations.txt", lines.replace("val_1", "val_7").as_bytes());
    world.fails(&["val_annotations.txt", "val_1.JPEG"]);
    world.write("val/val_annotations.txt", format!("{lines}val_9.JPEG\tcat\n").as_bytes());
    world.fails(&["val_9.JPEG is not in"]);
    world.write("val/val_annotations.txt", lines.replace("cat", "cow").as_bytes());
    world.fails(&["line 2", "cow"]);
    world.write("val/val_annotations.txt", b"val_0.JPEG dog\n");
    world.fails(&["line 1", "tab"]);
}

#[test]
fn a_cache_that_cannot_be_written_says_what_to_do() {
    let world = World::new();
    fs::write(world.path("file"), b"x").unwrap();
    let options = ImageOptions { cache: Some(world.path("file/below")), ..ImageOptions::default() };
    let error = load(world.folder.path(), "folder", &options, &Silent).unwrap_err();
    assert!(error.to_string().contains("--cache"), "{error}");
}
