package store_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/usher-dps/usher/internal/standin/dpssim/store"
)

// both runs a test on both kinds of store.
func both(t *testing.T, test func(*testing.T, *store.Store)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, store.Memory())
	})
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		s, err := store.Open(filepath.Join(t.TempDir(), "state"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		test(t, s)
	})
}

type value struct {
	N int `json:"n"`
}

func put(t *testing.T, s *store.Store, keys ...string) {
	t.Helper()
	if err := s.Update(func(tx *store.Tx) error {
		for i, key := range keys {
			if err := tx.Put("bucket", key, value{i}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// all returns keys and values as text.
func all(t *testing.T, s *store.Store, after string) (got []string) {
	t.Helper()
	if err := s.View(func(tx *store.Tx) error {
		for item, err := range store.All[json.RawMessage](tx, "bucket", after) {
			if err != nil {
				return err
			}
			got = append(got, item.Key+string(item.Value))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPutGetDelete(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *store.Store) {
		put(t, s, "b", "a", "c")
		err := s.Update(func(tx *store.Tx) error {
			var v value
			if found, err := tx.Get("bucket", "a", &v); !found || err != nil || v.N != 1 {
				t.Errorf("get: %v %v %v", found, err, v)
			}
			if err := tx.Put("bucket", "a", value{9}); err != nil {
				return err
			}
			if found, err := tx.Get("bucket", "a", &v); !found || err != nil || v.N != 9 {
				t.Errorf("own write: %v %v %v", found, err, v)
			}
			if err := errors.Join(tx.Delete("bucket", "b"), tx.Delete("bucket", "b"), tx.Delete("other", "b")); err != nil {
				return err
			}
			if found, err := tx.Get("bucket", "b", &v); found || err != nil {
				t.Errorf("deleted: %v %v", found, err)
			}
			if found, err := tx.Get("nowhere", "b", &v); found || err != nil {
				t.Errorf("no bucket: %v %v", found, err)
			}
			if n := tx.Count("nowhere"); n != 0 {
				t.Errorf("no bucket: %d keys", n)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := all(t, s, ""), []string{`a{"n":9}`, `c{"n":2}`}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		_ = s.View(func(tx *store.Tx) error {
			if n := tx.Count("bucket"); n != 2 {
				t.Errorf("%d keys", n)
			}
			var wrong string
			if _, err := tx.Get("bucket", "a", &wrong); err == nil || !strings.Contains(err.Error(), `bucket "a"`) {
				t.Errorf("wrong type: %v", err)
			}
			return nil
		})
	})
}

func TestRange(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *store.Store) {
		put(t, s, "a", "ab", "b", "c")
		for after, want := range map[string][]string{
			"":   {"a", "ab", "b", "c"},
			"a":  {"ab", "b", "c"},
			"aa": {"ab", "b", "c"},
			"c":  nil,
			"d":  nil,
		} {
			var got []string
			for _, text := range all(t, s, after) {
				got = append(got, text[:strings.Index(text, "{")])
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("after %q: %v, want %v", after, got, want)
			}
		}
		_ = s.View(func(tx *store.Tx) error {
			items := 0
			for range store.All[value](tx, "bucket", "") {
				items++
				break
			}
			for _, err := range store.All[string](tx, "bucket", "") {
				if items++; err == nil || !strings.Contains(err.Error(), `bucket "a"`) {
					t.Errorf("wrong type: %v", err)
				}
			}
			if items != 2 {
				t.Errorf("%d items, want one of each loop", items)
			}
			return nil
		})
	})
}

// TestManyKeys checks that keys are in order, however they were added and removed.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *store.Store) {
		const keys = 5000
		var want []string
		if err := s.Update(func(tx *store.Tx) error {
			for i := range keys {
				if err := tx.Put("bucket", fmt.Sprintf("%04d", i*1237%keys), value{}); err != nil {
					return err
				}
			}
			for i := range keys {
				key := fmt.Sprintf("%04d", i)
				if i%3 == 0 || i >= 1000 && i < 2600 {
					if err := tx.Delete("bucket", key); err != nil {
						return err
					}
					continue
				}
				want = append(want, key+`{"n":0}`)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := all(t, s, ""); !reflect.DeepEqual(got, want) {
			t.Errorf("%d keys, want %d in order", len(got), len(want))
		}
		for _, i := range []int{0, 1, 511, 512, 700, len(want) - 1} {
			if got := all(t, s, want[i][:4]); len(got) != len(want)-i-1 || len(got) > 0 && got[0] != want[i+1] {
				t.Errorf("after %s: %d keys, want %d", want[i], len(got), len(want)-i-1)
			}
		}
		if got := all(t, s, "1500"); len(got) == 0 || got[0] != `2600{"n":0}` {
			t.Errorf("after a key that is gone: %.1q", got)
		}
		_ = s.View(func(tx *store.Tx) error {
			if n := tx.Count("bucket"); n != len(want) {
				t.Errorf("%d keys, want %d", n, len(want))
			}
			return nil
		})
	})
}

// BenchmarkPut adds a key to a million keys, in memory.
func BenchmarkPut(b *testing.B) {
	s := store.Memory()
	n := 0
	put := func() {
		n++
		if err := s.Update(func(tx *store.Tx) error {
			return tx.Put("bucket", fmt.Sprintf("%016x", uint64(n)*0x9e3779b97f4a7c15), n)
		}); err != nil {
			b.Fatal(err)
		}
	}
	for n < 1_000_000 {
		put()
	}
	for b.Loop() {
		put()
	}
}

// TestRollback checks that a transaction that fails or panics changes nothing.
func TestRollback(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *store.Store) {
		put(t, s, "a", "b")
		spoil := func(tx *store.Tx) {
			for _, err := range []error{
				tx.Put("bucket", "a", value{7}), tx.Put("bucket", "a", value{8}), tx.Delete("bucket", "b"),
				tx.Put("bucket", "b", value{7}), tx.Put("bucket", "c", value{7}), tx.Delete("bucket", "c"),
				tx.Put("fresh", "x", value{7}),
			} {
				if err != nil {
					t.Error(err)
				}
			}
		}
		stop := errors.New("stop")
		if err := s.Update(func(tx *store.Tx) error { spoil(tx); return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = s.Update(func(tx *store.Tx) error { spoil(tx); panic("on purpose") })
		}()
		if got, want := all(t, s, ""), []string{`a{"n":0}`, `b{"n":1}`}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *store.Store) {
		if err := s.Update(func(tx *store.Tx) error { return tx.Put("bucket", "", value{}) }); err == nil {
			t.Error("an empty key was taken")
		}
		if err := s.Update(func(tx *store.Tx) error { return tx.Put("bucket", "a", func() {}) }); err == nil {
			t.Error("a function was stored")
		}
		put(t, s, "a")
		if err := s.View(func(tx *store.Tx) error { return tx.Put("bucket", "a", value{}) }); err == nil {
			t.Error("View wrote")
		}
		if err := s.View(func(tx *store.Tx) error { return tx.Delete("bucket", "a") }); err == nil {
			t.Error("View deleted")
		}
	})
}

// TestManyWriters checks that no write is lost.
func TestManyWriters(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *store.Store) {
		const writers, each = 8, 25
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range each {
					if err := s.Update(func(tx *store.Tx) error {
						var v value
						if _, err := tx.Get("bucket", "counter", &v); err != nil {
							return err
						}
						v.N++
						return tx.Put("bucket", "counter", v)
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got, want := all(t, s, ""), []string{fmt.Sprintf(`counter{"n":%d}`, writers*each)}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestOpenTwice(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := store.Open(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

const writerVariable = "STORE_TEST_WRITER"

// TestMain is also the child process of TestKill.
func TestMain(m *testing.M) {
	if path := os.Getenv(writerVariable); path != "" {
		writeForever(path)
	}
	os.Exit(m.Run())
}

// writeForever writes pairs that belong together and prints each that is committed.
func writeForever(path string) {
	s, err := store.Open(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	padding := strings.Repeat("x", 3000) // so that a commit is many pages
	var n int
	if err := s.View(func(tx *store.Tx) error { _, err := tx.Get("left", "n", &n); return err }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		n++
		if err := s.Update(func(tx *store.Tx) error {
			return errors.Join(tx.Put("left", "n", n), tx.Put("log", fmt.Sprintf("%09d", n), padding), tx.Put("right", "n", n))
		}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

// TestKill kills a writer repeatedly: everything that it reported as committed is complete, and the file opens.
func TestKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	for round := range 10 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), writerVariable+"="+path)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		committed := 0
		lines := bufio.NewScanner(out)
		for seen := 0; seen < 20+7*round && lines.Scan(); seen++ {
			if _, err := fmt.Sscan(lines.Text(), &committed); err != nil {
				t.Fatal(err)
			}
		}
		if err := child.Process.Kill(); err != nil { // SIGKILL
			t.Fatal(err)
		}
		_ = child.Wait() // says that it was killed

		s, err := store.Open(path)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		var left, right, count int
		err = s.View(func(tx *store.Tx) error {
			count = tx.Count("log")
			_, errLeft := tx.Get("left", "n", &left)
			_, errRight := tx.Get("right", "n", &right)
			return errors.Join(errLeft, errRight)
		})
		if err != nil || committed == 0 || left < committed || left != right || count != left {
			t.Errorf("round %d: committed %d, found %d, %d and %d, %v", round, committed, left, right, count, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
