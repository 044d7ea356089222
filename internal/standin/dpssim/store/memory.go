package store

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
)

var (
	errReadOnly = errors.New("state: a transaction of View cannot write")
	errEmptyKey = errors.New("state: the key is empty")
)

type memory struct {
	mu      sync.RWMutex
	buckets map[string]*memoryBucket
}

// memoryBucket has its keys in chunks, so that one more key moves those of one
// chunk, not a million.
type memoryBucket struct {
	chunks [][]string // in order, each sorted and none empty
	values map[string][]byte
}

const maxChunk = 512

type memoryTx struct {
	memory *memory
	write  bool
	undo   []func() // newest last
}

func newMemory() *memory { return &memory{buckets: map[string]*memoryBucket{}} }

func (m *memory) update(f func(*Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	tx := &memoryTx{memory: m, write: true}
	kept := false
	defer func() {
		if !kept {
			for _, undo := range slices.Backward(tx.undo) {
				undo()
			}
		}
	}()
	err := f(&Tx{memory: tx})
	kept = err == nil
	return err
}

func (m *memory) view(f func(*Tx) error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return f(&Tx{memory: &memoryTx{memory: m}})
}

func (tx *memoryTx) get(bucket, key string) []byte {
	b := tx.memory.buckets[bucket]
	if b == nil {
		return nil
	}
	return b.values[key]
}

func (tx *memoryTx) put(bucket, key string, data []byte) error {
	if !tx.write {
		return errReadOnly
	}
	if key == "" {
		return errEmptyKey
	}
	b := tx.memory.buckets[bucket]
	if b == nil {
		b = &memoryBucket{values: map[string][]byte{}}
		tx.memory.buckets[bucket] = b
	}
	if old, ok := b.values[key]; ok {
		tx.undo = append(tx.undo, func() { b.set(key, old) })
	} else {
		tx.undo = append(tx.undo, func() { b.remove(key) })
	}
	b.set(key, data)
	return nil
}

func (tx *memoryTx) delete(bucket, key string) error {
	if !tx.write {
		return errReadOnly
	}
	b := tx.memory.buckets[bucket]
	if b == nil {
		return nil
	}
	if old, ok := b.values[key]; ok {
		tx.undo = append(tx.undo, func() { b.set(key, old) })
		b.remove(key)
	}
	return nil
}

func (tx *memoryTx) count(bucket string) int {
	if b := tx.memory.buckets[bucket]; b != nil {
		return len(b.values)
	}
	return 0
}

func (tx *memoryTx) each(bucket, after string, f func(string, json.RawMessage) (bool, error)) error {
	b := tx.memory.buckets[bucket]
	if b == nil {
		return nil
	}
	i, place, found := b.find(after)
	if found {
		place++
	}
	for ; i < len(b.chunks); i, place = i+1, 0 {
		for _, key := range b.chunks[i][place:] {
			if more, err := f(key, b.values[key]); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// find is where a key is or belongs: the chunk, and the place in it.
func (b *memoryBucket) find(key string) (i, place int, found bool) {
	i, found = slices.BinarySearchFunc(b.chunks, key, func(keys []string, key string) int { return strings.Compare(keys[0], key) })
	if found || len(b.chunks) == 0 {
		return i, 0, found
	}
	i = max(i-1, 0)
	place, found = slices.BinarySearch(b.chunks[i], key)
	return i, place, found
}

func (b *memoryBucket) set(key string, data []byte) {
	_, known := b.values[key]
	b.values[key] = data
	if known {
		return
	}
	if len(b.chunks) == 0 {
		b.chunks = [][]string{{key}}
		return
	}
	i, place, _ := b.find(key)
	keys := slices.Insert(b.chunks[i], place, key)
	if half := len(keys) / 2; len(keys) > maxChunk {
		b.chunks = slices.Insert(b.chunks, i+1, slices.Clone(keys[half:]))
		keys = slices.Clone(keys[:half])
	}
	b.chunks[i] = keys
}

func (b *memoryBucket) remove(key string) {
	delete(b.values, key)
	i, place, found := b.find(key)
	if !found {
		return
	}
	if b.chunks[i] = slices.Delete(b.chunks[i], place, place+1); len(b.chunks[i]) == 0 {
		b.chunks = slices.Delete(b.chunks, i, i+1)
	}
}
