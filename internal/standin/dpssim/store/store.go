// Package store keeps the stand-in's state: named buckets of JSON values, changed
// in transactions, in memory or in one file.
package store

import (
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// Store is a set of buckets. It may be used by many goroutines; writers go one
// at a time.
type Store struct {
	memory *memory
	db     *bbolt.DB
}

// Memory returns an empty store that ends with the process.
func Memory() *Store { return &Store{memory: newMemory()} }

// Open opens or creates the file at path. What was committed survives the end of
// the process, kill -9 included; it is not flushed against a power cut, for this
// is a tool for development and a flush costs more than all else it does.
func Open(path string) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:      time.Second,
		NoSync:       true,
		FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return nil, fmt.Errorf("state file %s: %w (does another usher dps use it?)", path, err)
	}
	return &Store{db: db}, nil
}

// Close flushes and closes the file, if there is one.
func (s *Store) Close() error {
	if s.db == nil {
		return nil
	}
	if err := s.db.Sync(); err != nil {
		_ = s.db.Close()
		return err
	}
	return s.db.Close()
}

// Update runs f in a transaction that may write. If f returns an error or
// panics, nothing of what it wrote is kept. f must not call Update or View.
func (s *Store) Update(f func(*Tx) error) error {
	if s.db != nil {
		return s.db.Update(func(tx *bbolt.Tx) error { return f(&Tx{bolt: tx}) })
	}
	return s.memory.update(f)
}

// View runs f in a transaction that reads one state of all buckets.
func (s *Store) View(f func(*Tx) error) error {
	if s.db != nil {
		return s.db.View(func(tx *bbolt.Tx) error { return f(&Tx{bolt: tx}) })
	}
	return s.memory.view(f)
}

// Tx is a transaction. It ends with the function that got it.
type Tx struct {
	bolt   *bbolt.Tx
	memory *memoryTx
}

// Get decodes the value of a key into value, a pointer; found is false, and value
// as it was, if there is none.
func (tx *Tx) Get(bucket, key string, value any) (found bool, err error) {
	data := tx.get(bucket, key)
	if data == nil {
		return false, nil
	}
	if err := json.Unmarshal(data, value); err != nil {
		return false, fmt.Errorf("state: %s %q: %w", bucket, key, err)
	}
	return true, nil
}

// Put sets the value of a key, which must not be empty.
func (tx *Tx) Put(bucket, key string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("state: %s %q: %w", bucket, key, err)
	}
	if tx.bolt == nil {
		return tx.memory.put(bucket, key, data)
	}
	b, err := tx.bolt.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("state: %s: %w", bucket, err)
	}
	if err := b.Put([]byte(key), data); err != nil {
		return fmt.Errorf("state: %s %q: %w", bucket, key, err)
	}
	return nil
}

// Delete removes a key, if it is there.
func (tx *Tx) Delete(bucket, key string) error {
	if tx.bolt == nil {
		return tx.memory.delete(bucket, key)
	}
	b := tx.bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	if err := b.Delete([]byte(key)); err != nil {
		return fmt.Errorf("state: %s %q: %w", bucket, key, err)
	}
	return nil
}

// Count returns the number of keys of a bucket.
func (tx *Tx) Count(bucket string) int {
	if tx.bolt == nil {
		return tx.memory.count(bucket)
	}
	b := tx.bolt.Bucket([]byte(bucket))
	if b == nil {
		return 0
	}
	return b.Stats().KeyN
}

// Range calls f for each key after the given one, "" for all, in the order of
// their bytes, until f returns false or an error. f may keep data and must not
// change it; it must not write to the bucket.
func (tx *Tx) Range(bucket, after string, f func(key string, data json.RawMessage) (more bool, err error)) error {
	if tx.bolt == nil {
		return tx.memory.each(bucket, after, f)
	}
	b := tx.bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	cursor := b.Cursor()
	key, data := cursor.Seek([]byte(after))
	if string(key) == after {
		key, data = cursor.Next()
	}
	for ; key != nil; key, data = cursor.Next() {
		if more, err := f(string(key), append(json.RawMessage(nil), data...)); err != nil || !more {
			return err
		}
	}
	return nil
}

func (tx *Tx) get(bucket, key string) []byte {
	if tx.bolt == nil {
		return tx.memory.get(bucket, key)
	}
	b := tx.bolt.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Get([]byte(key))
}
