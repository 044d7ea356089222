// Package store keeps the stand-in's state: named buckets of JSON values, changed in transactions, in memory or in one
// file.
package store

import (
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"go.etcd.io/bbolt"
)

// Store is a set of buckets. It is safe for concurrent use; writers run one at a time.
type Store struct {
	update, view func(func(*Tx) error) error
	close        func() error
}

// Memory returns an empty store that ends with the process.
func Memory() *Store {
	m := &memory{trees: map[string]*tree{}}
	return &Store{m.update, m.view, func() error { return nil }}
}

// Open opens or creates the file at path. What was committed survives the end of the process, even kill -9. It is not
// flushed against a power cut: this is a development tool, and a flush costs more than everything else it does.
func Open(path string) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, NoSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("state file %s: %w (does another usher dps use it?)", path, err)
	}
	in := func(run func(func(*bbolt.Tx) error) error) func(func(*Tx) error) error {
		return func(f func(*Tx) error) error {
			return run(func(tx *bbolt.Tx) error { return f(&Tx{file{tx}}) })
		}
	}
	return &Store{in(db.Update), in(db.View), func() error {
		if err := db.Sync(); err != nil {
			_ = db.Close() // the first error counts
			return err
		}
		return db.Close()
	}}, nil
}

// Close flushes and closes the file, if there is one.
func (s *Store) Close() error { return s.close() }

// Update runs f in a transaction that may write. If f returns an error or panics, nothing that it wrote is kept. f must
// not call Update or View.
func (s *Store) Update(f func(*Tx) error) error { return s.update(f) }

// View runs f in a transaction that reads one state of all buckets.
func (s *Store) View(f func(*Tx) error) error { return s.view(f) }

// Tx is a transaction. It ends when the function that received it returns.
type Tx struct{ buckets }

// buckets is a transaction on one kind of store.
type buckets interface {
	get(bucket, key string) []byte // nil if there is no such key
	put(bucket, key string, data []byte) error
	delete(bucket, key string) error
	count(bucket string) int
	// each calls f for each key after the given one, in byte order, until f returns false.
	each(bucket, after string, f func(key string, data []byte) bool)
}

// Get decodes the value of a key into value, a pointer. If there is no such key, found is false and value is unchanged.
func (tx *Tx) Get(bucket, key string, value any) (found bool, err error) {
	data := tx.get(bucket, key)
	if data == nil {
		return false, nil
	}
	return true, described(bucket, key, json.Unmarshal(data, value))
}

// Put sets the value of a key, which must not be empty.
func (tx *Tx) Put(bucket, key string, value any) error {
	data, err := json.Marshal(value)
	if err == nil {
		err = tx.put(bucket, key, data)
	}
	return described(bucket, key, err)
}

// Delete removes a key, if it exists.
func (tx *Tx) Delete(bucket, key string) error { return described(bucket, key, tx.delete(bucket, key)) }

// Count returns the number of keys in a bucket.
func (tx *Tx) Count(bucket string) int { return tx.count(bucket) }

// Item is a key with its value.
type Item[T any] struct {
	Key   string
	Value T
}

// All yields the items of a bucket in the byte order of their keys, from the first key after the given one; "" is
// before all keys. It ends with the first error. The bucket must not be changed meanwhile.
func All[T any](tx *Tx, bucket, after string) iter.Seq2[Item[T], error] {
	return func(yield func(Item[T], error) bool) {
		tx.each(bucket, after, func(key string, data []byte) bool {
			item := Item[T]{Key: key}
			err := described(bucket, key, json.Unmarshal(data, &item.Value))
			return yield(item, err) && err == nil
		})
	}
}

func described(bucket, key string, err error) error {
	if err != nil {
		return fmt.Errorf("state: %s %q: %w", bucket, key, err)
	}
	return nil
}

// file is a transaction on a file.
type file struct{ tx *bbolt.Tx }

func (f file) get(bucket, key string) []byte {
	b := f.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Get([]byte(key))
}

func (f file) put(bucket, key string, data []byte) error {
	b, err := f.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return err
	}
	return b.Put([]byte(key), data)
}

func (f file) delete(bucket, key string) error {
	b := f.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Delete([]byte(key))
}

func (f file) count(bucket string) int {
	b := f.tx.Bucket([]byte(bucket))
	if b == nil {
		return 0
	}
	return b.Stats().KeyN
}

func (f file) each(bucket, after string, call func(string, []byte) bool) {
	b := f.tx.Bucket([]byte(bucket))
	if b == nil {
		return
	}
	cursor := b.Cursor()
	key, data := cursor.Seek([]byte(after))
	if string(key) == after {
		key, data = cursor.Next()
	}
	for ; key != nil && call(string(key), data); key, data = cursor.Next() {
	}
}
