package rulesource

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/usher-dps/usher/internal/serve/remotefile"
	"github.com/usher-dps/usher/internal/serve/rulebundle"
)

// cache keeps the last good bundle of one source in a file: a line of JSON that describes it, followed by the bundle.
// It is one file, so that the two always belong together. The file's modification time is when the source last
// confirmed it.
type cache struct {
	folder string
	file   string
	source string
}

// cacheHeader is the line before the bundle.
type cacheHeader struct {
	Version int    `json:"usherRules"`
	Source  string `json:"source"`
	ETag    string `json:"etag,omitempty"`
	SHA256  string `json:"sha256"`
	Bytes   int    `json:"bytes"`
}

const (
	cacheVersion   = 1
	maxCacheHeader = 8 << 10
)

// cached is a bundle that was read back.
type cached struct {
	packed []byte
	etag   string
	sum    string
	// age is how long ago the source confirmed it, by the wall clock; never negative.
	age time.Duration
}

// newCache returns nil if nothing is to be kept.
func newCache(folder string, location Location) *cache {
	if folder == "" || location.Kind == remotefile.Path {
		return nil
	}
	// Several sources, and several handlers on one machine, can share the folder.
	name := sha256.Sum256([]byte(location.String()))
	return &cache{folder: folder, source: location.String(),
		file: filepath.Join(folder, "rules-"+hex.EncodeToString(name[:8])+".bundle")}
}

// read returns nil if nothing is kept. It verifies the digest; the caller verifies the signature.
func (c *cache) read(now time.Time) (*cached, error) {
	if c == nil {
		return nil, nil
	}
	file, err := os.Open(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := remotefile.Trust(c.folder); err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, maxCacheHeader+rulebundle.MaxSize+1))
	if err != nil {
		return nil, err
	}
	end := bytes.IndexByte(content, '\n')
	var header cacheHeader
	if end < 0 || end > maxCacheHeader || json.Unmarshal(content[:end], &header) != nil || header.Version != cacheVersion {
		return nil, errors.New("its header is invalid")
	}
	packed := content[end+1:]
	switch sum := digestOf(packed); {
	case header.Source != c.source:
		return nil, errors.New("it is from another source")
	case header.Bytes != len(packed) || header.SHA256 != sum:
		return nil, errors.New("its digest is wrong")
	default:
		return &cached{packed: packed, etag: header.ETag, sum: sum, age: max(now.Sub(info.ModTime()), 0)}, nil
	}
}

// write replaces what is kept in one step.
func (c *cache) write(packed []byte, etag string) (err error) {
	if c == nil {
		return nil
	}
	if err := remotefile.MakeFolder(c.folder); err != nil {
		return err
	}
	header, err := json.Marshal(cacheHeader{cacheVersion, c.source, etag, digestOf(packed), len(packed)})
	if err != nil {
		return err
	}
	if len(header) > maxCacheHeader {
		return errors.New("the source's ETag is too long")
	}
	file, err := os.CreateTemp(c.folder, ".rules-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.Write(append(header, '\n'))
	if err == nil {
		_, err = file.Write(packed)
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	return remotefile.Keep(file, c.file)
}

// confirm notes that the source still has the bundle that is kept.
func (c *cache) confirm(now time.Time) {
	if c != nil {
		_ = os.Chtimes(c.file, now, now) // if this fails, it looks older than it is, which is safe
	}
}

func digestOf(packed []byte) string {
	sum := sha256.Sum256(packed)
	return "sha256:" + hex.EncodeToString(sum[:])
}
