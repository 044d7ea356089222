package store

import (
	"errors"
	"slices"
	"sync"

	"github.com/google/btree"
)

var (
	errReadOnly = errors.New("a transaction of View cannot write")
	errEmptyKey = errors.New("the key is empty")
)

type (
	entry = Item[[]byte]
	tree  = btree.BTreeG[entry]

	// memory holds each bucket as a tree.
	memory struct {
		mu    sync.RWMutex
		trees map[string]*tree
	}
	// memoryTx is a transaction on memory.
	memoryTx struct {
		trees    map[string]*tree
		writable bool
		undo     []func() // newest last
	}
)

func newTree() *tree {
	return btree.NewG(32, func(a, b entry) bool { return a.Key < b.Key })
}

func (m *memory) update(f func(*Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	tx := &memoryTx{trees: m.trees, writable: true}
	committed := false
	defer func() { // also if f panics
		if !committed {
			for _, undo := range slices.Backward(tx.undo) {
				undo()
			}
		}
	}()
	err := f(&Tx{tx})
	committed = err == nil
	return err
}

func (m *memory) view(f func(*Tx) error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return f(&Tx{&memoryTx{trees: m.trees}})
}

func (tx *memoryTx) get(bucket, key string) []byte {
	if t := tx.trees[bucket]; t != nil {
		item, _ := t.Get(entry{Key: key})
		return item.Value
	}
	return nil
}

func (tx *memoryTx) put(bucket, key string, data []byte) error {
	if !tx.writable {
		return errReadOnly
	}
	if key == "" {
		return errEmptyKey
	}
	t := tx.trees[bucket]
	if t == nil {
		t = newTree()
		tx.trees[bucket] = t
	}
	if old, replaced := t.ReplaceOrInsert(entry{key, data}); replaced {
		tx.undo = append(tx.undo, func() { t.ReplaceOrInsert(old) })
	} else {
		tx.undo = append(tx.undo, func() { t.Delete(entry{Key: key}) })
	}
	return nil
}

func (tx *memoryTx) delete(bucket, key string) error {
	if !tx.writable {
		return errReadOnly
	}
	if t := tx.trees[bucket]; t != nil {
		if old, found := t.Delete(entry{Key: key}); found {
			tx.undo = append(tx.undo, func() { t.ReplaceOrInsert(old) })
		}
	}
	return nil
}

func (tx *memoryTx) count(bucket string) int {
	if t := tx.trees[bucket]; t != nil {
		return t.Len()
	}
	return 0
}

func (tx *memoryTx) each(bucket, after string, f func(string, []byte) bool) {
	if t := tx.trees[bucket]; t != nil {
		t.AscendGreaterOrEqual(entry{Key: after}, func(item entry) bool {
			return item.Key == after || f(item.Key, item.Value)
		})
	}
}
