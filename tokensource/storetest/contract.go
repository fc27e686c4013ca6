package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// contract returns the subtests for the promises of [tokensource.Store].
func contract() []behaviour {
	return []behaviour{
		{"a missing key is nil", missingKey},
		{"values come back byte for byte", byteForByte},
		{"values are not shared with the caller", valuesAreCopied},
		{"keys are independent", keysAreIndependent},
		{"locks of different keys are independent", locksAreIndependent},
		{"another handle does not wait for the lock", lockOfAnotherHandle},
		{"the same handle does not wait for the lock", lockOfTheSameHandle},
		{"no update is lost", noUpdateIsLost},
		{"an error of fn comes back and frees the lock", errorOfFn},
		{"an error of fn leaves the value", errorAfterNoSave},
		{"what was saved before an error stays", errorAfterSave},
		{"a panic of fn frees the lock", panicOfFn},
		{"runtime.Goexit in fn frees the lock", goexitInFn},
		{"without a save the value stays", noSave},
		{"fn saves more than once", saveTwice},
		{"a saved value is visible at once", visibleAtOnce},
		{"a save after the lock is gone replaces nothing", lateSave},
		{"a context that has ended calls nothing", endedContext},
	}
}

const key = "storetest"

// patience bounds what takes a moment. A good store needs little of it.
const patience = 3 * time.Second

func missingKey(t *testing.T, place func() opener) {
	want(t, place()(), key, nil)
}

func byteForByte(t *testing.T, place func() opener) {
	open := place()
	random := make([]byte, 64<<10)
	rand.Read(random)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	writer, reader := open(), open()
	for _, value := range [][]byte{[]byte("{}"), {0}, []byte("a\r\nb\n\x00"), every, random, {}} {
		put(t, writer, key, value)
		want(t, writer, key, value)
		want(t, reader, key, value)
	}
}

func valuesAreCopied(t *testing.T, place func() opener) {
	store, value := place()(), []byte("abc")
	put(t, store, key, value)
	clear(value)
	want(t, store, key, []byte("abc"))
	clear(load(t, store, key))
	want(t, store, key, []byte("abc"))
	err := store.Update(bounded(t), key, func(value []byte, _ func([]byte) error) error {
		clear(value)
		return nil
	})
	if err != nil {
		t.Errorf("Update: got error %v", err)
	}
	want(t, store, key, []byte("abc"))
}

func keysAreIndependent(t *testing.T, place func() opener) {
	open := place()
	store, values := open(), map[string]string{}
	for _, k := range []string{
		"a", "A", "b", ".", "..", "../a", "/a", "a/b", "a:b", "a.b", "a_b", "a%2Fb", "{a}", "{a}b", "*", "a?", "~", "-a",
		`a\b`, "a'b", `a"b`, "a;b", "a,b", "$a", "a.lock", strings.Repeat("k", 254), strings.Repeat("k", 255),
	} {
		values[k] = "value of " + k
		put(t, store, k, []byte(values[k]))
	}
	other := open()
	for _, k := range slices.Sorted(maps.Keys(values)) {
		want(t, other, k, []byte(values[k]))
	}
}

func locksAreIndependent(t *testing.T, place func() opener) {
	store := place()()
	err := store.Update(bounded(t), "a", func([]byte, func([]byte) error) error {
		put(t, store, "b", []byte("b"))
		return nil
	})
	if err != nil {
		t.Errorf("Update: got error %v", err)
	}
	want(t, store, "b", []byte("b"))
}

func lockOfAnotherHandle(t *testing.T, place func() opener) {
	open := place()
	holdAndTry(t, open(), open())
}

func lockOfTheSameHandle(t *testing.T, place func() opener) {
	store := place()()
	holdAndTry(t, store, store)
}

// holdAndTry checks that while one holds the lock, the other is refused it, can load,
// and gets it afterwards.
func holdAndTry(t *testing.T, one, other tokensource.Store) {
	put(t, one, key, []byte("old"))
	err := one.Update(bounded(t), key, func(_ []byte, save func([]byte) error) error {
		wantLocked(t, other)
		same(t, "Load while another has the lock", load(t, other, key), []byte("old"))
		if err := save([]byte("new")); err != nil {
			t.Errorf("save after another has tried: got error %v", err)
		}
		wantLocked(t, other)
		return nil
	})
	if err != nil {
		t.Errorf("Update: got error %v", err)
	}
	want(t, other, key, []byte("new"))
}

func wantLocked(t *testing.T, s tokensource.Store) {
	t.Helper()
	ctx, result := bounded(t), make(chan error, 1)
	var called atomic.Bool
	go func() {
		result <- s.Update(ctx, key, func([]byte, func([]byte) error) error {
			called.Store(true)
			return nil
		})
	}()
	select {
	case err := <-result:
		if !errors.Is(err, tokensource.ErrLocked) || called.Load() {
			t.Errorf("Update of a locked key: got error %v, fn called: %t; want ErrLocked, false", err, called.Load())
		}
	case <-time.After(patience):
		t.Errorf("Update of a locked key has not returned after %v; want ErrLocked at once", patience)
	}
}

// noUpdateIsLost counts under the lock, and checks that no other does so at the same
// time. The holder of the lock lets others try first.
func noUpdateIsLost(t *testing.T, place func() opener) {
	const handles, goroutines, times = 4, 4, 5
	open := place()
	var all sync.WaitGroup
	var inside, overlaps, refused atomic.Int32
	enter := func() {
		if inside.Add(1) > 1 {
			overlaps.Add(1)
		}
		enough := refused.Load() + 2*goroutines
		for range 1000 {
			if runtime.Gosched(); refused.Load() >= enough {
				return
			}
		}
	}
	for range handles {
		store := open()
		for range goroutines {
			all.Go(func() {
				for range times {
					count(t, store, enter, func() { inside.Add(-1) }, func() { refused.Add(1) })
				}
			})
		}
	}
	all.Wait()
	want(t, open(), key, []byte(strconv.Itoa(handles*goroutines*times)))
	if n := overlaps.Load(); n > 0 {
		t.Errorf("got %d calls of fn while another ran; want 0", n)
	}
}

// count adds one to the stored number once it has the lock.
func count(t *testing.T, s tokensource.Store, enter, leave, refused func()) {
	for ctx := bounded(t); ; runtime.Gosched() {
		err := s.Update(ctx, key, func(value []byte, save func([]byte) error) error {
			enter()
			defer leave()
			n, _ := strconv.Atoi(string(value))
			return save([]byte(strconv.Itoa(n + 1)))
		})
		if err == nil {
			return
		}
		if !errors.Is(err, tokensource.ErrLocked) {
			t.Errorf("Update: got error %v; want nil or ErrLocked", err)
			return
		}
		refused()
	}
}

var errFn = errors.New("an error of fn")

// fail calls Update with an fn that saves the values and fails.
func fail(t *testing.T, s tokensource.Store, values ...string) {
	t.Helper()
	calls := 0
	err := s.Update(bounded(t), key, func(_ []byte, save func([]byte) error) error {
		calls++
		for _, v := range values {
			if err := save([]byte(v)); err != nil {
				t.Errorf("save: got error %v", err)
			}
		}
		return errFn
	})
	if !errors.Is(err, errFn) || calls != 1 {
		t.Errorf("Update: got error %v after %d calls of fn; want that of fn, 1", err, calls)
	}
}

func errorOfFn(t *testing.T, place func() opener) {
	open := place()
	store := open()
	fail(t, store)
	want(t, open(), key, nil)
	put(t, open(), key, []byte("new"))
	put(t, store, key, []byte("newer"))
}

func errorAfterNoSave(t *testing.T, place func() opener) {
	store := place()()
	put(t, store, key, []byte("old"))
	fail(t, store)
	want(t, store, key, []byte("old"))
}

// errorAfterSave: an exchange may fail after flush has saved the token before it.
func errorAfterSave(t *testing.T, place func() opener) {
	store := place()()
	put(t, store, key, []byte("old"))
	fail(t, store, "new")
	want(t, store, key, []byte("new"))
}

func panicOfFn(t *testing.T, place func() opener) {
	leaveBy(t, place(), func() { panic("fn panics, as the test wants it to") })
}

func goexitInFn(t *testing.T, place func() opener) {
	leaveBy(t, place(), runtime.Goexit)
}

// leaveBy leaves fn in a way that is not a return, and checks the lock.
func leaveBy(t *testing.T, open opener, leave func()) {
	store, ctx, left := open(), bounded(t), make(chan struct{})
	put(t, store, key, []byte("old"))
	go func() {
		defer close(left)
		defer func() { recover() }()
		store.Update(ctx, key, func([]byte, func([]byte) error) error {
			leave()
			return nil
		})
	}()
	<-left
	want(t, store, key, []byte("old"))
	put(t, store, key, []byte("new"))
	put(t, open(), key, []byte("newer"))
}

func noSave(t *testing.T, place func() opener) {
	open := place()
	put(t, open(), key, []byte("old"))
	want(t, open(), key, []byte("old")) // its Update saves nothing
	want(t, open(), key, []byte("old"))
}

func saveTwice(t *testing.T, place func() opener) {
	open := place()
	store := open()
	err := store.Update(bounded(t), key, func(_ []byte, save func([]byte) error) error {
		return errors.Join(save([]byte("one")), save([]byte("two")), save([]byte("two")), save([]byte("three")))
	})
	if err != nil {
		t.Errorf("got error %v; want four saves", err)
	}
	want(t, open(), key, []byte("three"))
}

func visibleAtOnce(t *testing.T, place func() opener) {
	open := place()
	store, other := open(), open()
	put(t, other, key, []byte("old"))
	want(t, store, key, []byte("old")) // both have read it, and may remember it
	want(t, other, key, []byte("old"))
	err := store.Update(bounded(t), key, func(_ []byte, save func([]byte) error) error {
		err := save([]byte("new"))
		same(t, "Load by another handle before fn has returned", load(t, other, key), []byte("new"))
		same(t, "Load by the same handle before fn has returned", load(t, store, key), []byte("new"))
		return err
	})
	if err != nil {
		t.Errorf("Update: got error %v", err)
	}
}

// lateSave is the case of a process that was suspended while its lock expired.
func lateSave(t *testing.T, place func() opener) {
	open := place()
	store := open()
	var late func([]byte) error
	err := store.Update(bounded(t), key, func(_ []byte, save func([]byte) error) error {
		late = save
		return save([]byte("old"))
	})
	if err != nil {
		t.Fatalf("Update: got error %v", err)
	}
	if err := late([]byte("late")); !errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("save without the lock: got error %v; want ErrLocked", err)
	}
	want(t, open(), key, []byte("old"))
	put(t, open(), key, []byte("new"))
	if err := late([]byte("late")); !errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("save after another has saved: got error %v; want ErrLocked", err)
	}
	want(t, open(), key, []byte("new"))
}

func endedContext(t *testing.T, place func() opener) {
	store := place()()
	put(t, store, key, []byte("old"))
	ctx, cancel := context.WithCancel(bounded(t))
	cancel()
	if _, err := store.Load(ctx, key); err == nil {
		t.Error("Load: got no error; want one")
	}
	called := false
	err := store.Update(ctx, key, func([]byte, func([]byte) error) error {
		called = true
		return nil
	})
	if err == nil || called {
		t.Errorf("Update: got error %v, fn called: %t; want an error, false", err, called)
	}
	want(t, store, key, []byte("old"))
}
