//! Iceberg's `FileIO` over our stores, so that metadata and data go the same way with the same credentials.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig, StorageFactory};
use iceberg::{Error, ErrorKind, Result};
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};

use super::StoreRegistry;

impl StoreRegistry {
    /// Iceberg's view of these stores.
    pub(crate) fn file_io(self: &Arc<Self>) -> FileIO {
        FileIOBuilder::new(Arc::new(RegistryStorage { registry: Some(Arc::clone(self)) })).build()
    }
}

/// Iceberg wants storages that serialise; ours holds live connections, so a deserialised one answers with an error.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct RegistryStorage {
    #[serde(skip)]
    registry: Option<Arc<StoreRegistry>>,
}

impl RegistryStorage {
    fn registry(&self) -> Result<&Arc<StoreRegistry>> {
        self.registry.as_ref().ok_or_else(|| Error::new(ErrorKind::FeatureUnsupported, "a storage that was sent has no stores"))
    }

    fn resolve(&self, path: &str) -> Result<super::Location> {
        self.registry()?.resolve(path).map_err(lift)
    }
}

fn lift(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unexpected, error.to_string()).with_source(error)
}

#[typetag::serde(name = "chainalytics")]
impl StorageFactory for RegistryStorage {
    fn build(&self, _config: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
#[typetag::serde(name = "chainalytics")]
impl Storage for RegistryStorage {
    async fn exists(&self, path: &str) -> Result<bool> {
        self.registry()?.exists(path).await.map_err(lift)
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let at = self.resolve(path)?;
        let meta = at.store.head(&at.path).await.map_err(lift)?;
        Ok(FileMetadata { size: meta.size })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        self.registry()?.read(path).await.map_err(lift)
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        Ok(Box::new(Reader { at: self.resolve(path)? }))
    }

    async fn write(&self, path: &str, bs: Bytes) -> Result<()> {
        self.registry()?.write(path, bs).await.map_err(lift)
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let registry = Arc::clone(self.registry()?);
        Ok(Box::new(Writer { registry, path: path.to_owned(), buffer: Some(BytesMut::new()) }))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.registry()?.delete(path).await.map_err(lift)
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        let registry = self.registry()?;
        for file in registry.list(path).await.map_err(lift)? {
            registry.delete(&file).await.map_err(lift)?;
        }
        Ok(())
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> Result<()> {
        while let Some(path) = paths.next().await {
            self.delete(&path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

struct Reader {
    at: super::Location,
}

#[async_trait]
impl FileRead for Reader {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.at.store.get_range(&self.at.path, range).await.map_err(lift)
    }
}

/// Collects the content and writes it at `close`: Iceberg's writers hand over whole manifests anyway, and a file must
/// appear complete or not at all.
struct Writer {
    registry: Arc<StoreRegistry>,
    path: String,
    buffer: Option<BytesMut>,
}

#[async_trait]
impl FileWrite for Writer {
    async fn write(&mut self, bs: Bytes) -> Result<()> {
        let buffer = self.buffer.as_mut().ok_or_else(|| Error::new(ErrorKind::Unexpected, "write after close"))?;
        buffer.extend_from_slice(&bs);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let buffer = self.buffer.take().ok_or_else(|| Error::new(ErrorKind::Unexpected, "closed twice"))?;
        self.registry.write(&self.path, buffer.freeze()).await.map_err(lift)
    }
}
