package store

import (
	"encoding/json"
	"errors"
	"slices"
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

type memoryBucket struct {
	keys   []string // sorted
	values map[string][]byte
}

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
		return len(b.keys)
	}
	return 0
}

func (tx *memoryTx) each(bucket, after string, f func(string, json.RawMessage) (bool, error)) error {
	b := tx.memory.buckets[bucket]
	if b == nil {
		return nil
	}
	i, found := slices.BinarySearch(b.keys, after)
	if found {
		i++
	}
	for _, key := range b.keys[i:] {
		if more, err := f(key, b.values[key]); err != nil || !more {
			return err
		}
	}
	return nil
}

func (b *memoryBucket) set(key string, data []byte) {
	if _, ok := b.values[key]; !ok {
		i, _ := slices.BinarySearch(b.keys, key)
		b.keys = slices.Insert(b.keys, i, key)
	}
	b.values[key] = data
}

func (b *memoryBucket) remove(key string) {
	if i, ok := slices.BinarySearch(b.keys, key); ok {
		b.keys = slices.Delete(b.keys, i, i+1)
	}
	delete(b.values, key)
}
