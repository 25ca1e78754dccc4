//! Files as `torch.save` writes them, and as it never would.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A tensor as a view of a storage.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) storage: usize,
    pub(crate) class: &'static str,
    /// Number of elements that the pickle says the storage has.
    pub(crate) elements: i64,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) stride: Vec<i64>,
}

#[derive(Clone)]
pub(crate) enum Node {
    Tensor(View),
    Dict(Vec<(String, Node)>),
    /// Operations of a pickle that leave one object.
    Raw(Vec<u8>),
}

/// What a file holds: an object, and storages by number.
#[derive(Clone)]
pub(crate) struct TorchFile {
    pub(crate) root: Node,
    pub(crate) storages: Vec<Vec<u8>>,
}

fn text(text: &str, into: &mut Vec<u8>) {
    into.push(b'X');
    into.extend((text.len() as u32).to_le_bytes());
    into.extend(text.as_bytes());
}

fn integer(value: i64, into: &mut Vec<u8>) {
    into.extend([0x8a, 8]);
    into.extend(value.to_le_bytes());
}

fn integers(values: &[i64], into: &mut Vec<u8>) {
    into.push(b'(');
    values.iter().for_each(|&value| integer(value, into));
    into.push(b't');
}

fn class(module: &str, name: &str, into: &mut Vec<u8>) {
    into.extend(format!("c{module}\n{name}\n").as_bytes());
}

/// One pickle of protocol 2.
pub(crate) fn pickle(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0x80, 2];
    write(&mut bytes);
    bytes.push(b'.');
    bytes
}

impl Node {
    fn write(&self, tensor: &mut dyn FnMut(&View, &mut Vec<u8>), into: &mut Vec<u8>) {
        match self {
            Self::Tensor(view) => tensor(view, into),
            Self::Raw(bytes) => into.extend(bytes),
            Self::Dict(entries) => {
                into.extend(b"}(");
                for (name, node) in entries {
                    text(name, into);
                    node.write(tensor, into);
                }
                into.push(b'u');
            }
        }
    }
}

fn rebuild(view: &View, into: &mut Vec<u8>) {
    class("torch._utils", "_rebuild_tensor_v2", into);
    into.extend(b"((");
    text("storage", into);
    class("torch", view.class, into);
    text(&view.storage.to_string(), into);
    text("cpu", into);
    integer(view.elements, into);
    into.extend(b"tQ");
    integer(view.offset, into);
    integers(&view.shape, into);
    integers(&view.stride, into);
    into.push(0x89);
    class("collections", "OrderedDict", into);
    into.extend(b")RtR");
}

impl TorchFile {
    /// Contiguous `f32` tensors by name.
    pub(crate) fn of(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Self {
        let mut file = Self { root: Node::Dict(Vec::new()), storages: Vec::new() };
        for (name, shape, values) in tensors {
            file.add(name, "FloatStorage", shape, values.iter().flat_map(|v| v.to_le_bytes()).collect());
        }
        file
    }

    /// Adds a contiguous tensor.
    pub(crate) fn add(&mut self, name: &str, class: &'static str, shape: &[usize], bytes: Vec<u8>) {
        let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        let mut stride = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            stride[axis - 1] = stride[axis] * shape[axis];
        }
        let elements = shape.iter().product();
        let view = View { storage: self.storages.len(), class, elements, offset: 0, shape, stride };
        self.storages.push(bytes);
        self.entries().push((name.to_owned(), Node::Tensor(view)));
    }

    pub(crate) fn entries(&mut self) -> &mut Vec<(String, Node)> {
        match &mut self.root {
            Node::Dict(entries) => entries,
            _ => panic!("the root is a dictionary"),
        }
    }

    pub(crate) fn view(&mut self, name: &str) -> &mut View {
        match self.entries().iter_mut().find(|(other, _)| other == name) {
            Some((_, Node::Tensor(view))) => view,
            _ => panic!("no tensor {name}"),
        }
    }

    pub(crate) fn data_pkl(&self) -> Vec<u8> {
        pickle(|into| self.root.write(&mut rebuild, into))
    }

    pub(crate) fn zip(&self) -> Vec<u8> {
        self.zip_with(CompressionMethod::Stored)
    }

    pub(crate) fn zip_with(&self, method: CompressionMethod) -> Vec<u8> {
        let mut entries = vec![("model/data.pkl".to_owned(), self.data_pkl())];
        entries.push(("model/byteorder".to_owned(), b"little".to_vec()));
        let data = self.storages.iter().enumerate();
        entries.extend(data.map(|(index, bytes)| (format!("model/data/{index}"), bytes.clone())));
        zip_of(&entries, method)
    }

    pub(crate) fn legacy(&self) -> Vec<u8> {
        let mut file = pickle(|into| {
            into.extend([0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19]);
        });
        file.extend(pickle(|into| integer(1001, into)));
        file.extend(pickle(|into| {
            into.extend(b"}(");
            text("little_endian", into);
            into.extend([0x88, b'u']);
        }));
        file.extend(self.data_pkl());
        let mut sizes = vec![4; self.storages.len()];
        if let Node::Dict(entries) = &self.root {
            for (_, node) in entries {
                if let Node::Tensor(view) = node {
                    sizes[view.storage] = size_of_class(view.class);
                }
            }
        }
        file.extend(pickle(|into| {
            into.extend(b"](");
            (0..self.storages.len()).for_each(|index| text(&index.to_string(), into));
            into.push(b'e');
        }));
        for (bytes, size) in self.storages.iter().zip(sizes) {
            file.extend(((bytes.len() / size) as i64).to_le_bytes());
            file.extend(bytes);
        }
        file
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut views = Vec::new();
        let pickle_entry = pickle(|into| {
            let mut refer = |view: &View, into: &mut Vec<u8>| {
                text(&views.len().to_string(), into);
                into.push(b'Q');
                views.push(view.clone());
            };
            self.root.write(&mut refer, into);
        });
        let mut storages = pickle(|into| integer(self.storages.len() as i64, into));
        for (index, bytes) in self.storages.iter().enumerate() {
            let kind = views.iter().find(|view| view.storage == index).map_or("FloatStorage", |view| view.class);
            storages.extend(pickle(|into| {
                into.push(b'(');
                integer(index as i64, into);
                text("cpu", into);
                class("torch", kind, into);
                into.push(b't');
            }));
            storages.extend(((bytes.len() / size_of_class(kind)) as i64).to_le_bytes());
            storages.extend(bytes);
        }
        storages.extend(pickle(|into| into.push(b']')));
        let mut tensors = pickle(|into| integer(views.len() as i64, into));
        for (index, view) in views.iter().enumerate() {
            tensors.extend(pickle(|into| {
                into.push(b'(');
                integer(index as i64, into);
                integer(view.storage as i64, into);
                class("torch", "FloatTensor", into);
                into.push(b't');
            }));
            tensors.extend((view.shape.len() as i64).to_le_bytes());
            view.shape.iter().chain(&view.stride).for_each(|value| tensors.extend(value.to_le_bytes()));
            tensors.extend(view.offset.to_le_bytes());
        }
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in [("storages", storages), ("tensors", tensors), ("pickle", pickle_entry)] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        archive.into_inner().unwrap()
    }
}

fn size_of_class(class: &str) -> usize {
    match class {
        "LongStorage" | "DoubleStorage" => 8,
        "HalfStorage" => 2,
        _ => 4,
    }
}

pub(crate) fn zip_of(entries: &[(String, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in entries {
        writer.start_file(name.as_str(), options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
