package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/tokensource"
)

// Bounds of the lock's life.
const (
	grace       = 2 * time.Second  // beyond the deadline of the context
	defaultLife = 30 * time.Second // if there is no deadline
)

// Waiting times after an unlock that failed.
const (
	firstWait   = 100 * time.Millisecond
	longestWait = time.Second
)

// A lock is the lock of a value, held by one Update.
type lock struct {
	store   *Store
	name    string    // of the value
	content string    // distinguishes it from other locks
	end     time.Time // it has expired by then, if Redis has set it at all
	held    bool      // an answer confirmed that it is set

	// known is what the value may be: the last value or, after a lost answer, one that
	// was to be saved. See pack.
	known []string
}

// pack makes a script's argument from a value, which differs from the one for no value.
func pack(value string) string { return "+" + value }

const packedNone = "-"

// lock tries once. It also returns the value, nil if there is none. If the lock may be
// set although no answer came, it is removed again.
func (s *Store) lock(ctx context.Context, name string) (*lock, []byte, error) {
	life := life(ctx)
	l := &lock{store: s, name: name, content: rand.Text(), end: time.Now().Add(life)}
	tried := make(chan struct{})
	answer, err := do(ctx, s.Client, func(ctx context.Context) (any, error) {
		defer close(tried)
		return s.write(ctx, lockScript, name, l.content, max(1, life.Milliseconds()))
	})
	if err != nil {
		go func() {
			<-tried
			l.unlock(ctx)
		}()
		return nil, nil, fmt.Errorf("redisstore: lock: %w", err)
	}
	packed, ok := answer.(string)
	if !ok {
		return nil, nil, errTaken
	}
	l.held, l.known = true, []string{packed}
	if packed == packedNone {
		return l, nil, nil
	}
	return l, []byte(packed[1:]), nil
}

// life returns how long the lock lasts from the moment when Redis sets it.
func life(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return defaultLife
	}
	return time.Until(deadline) + grace
}

// unlock removes the lock if this lock still holds, even after the end of ctx. If that
// fails, it keeps trying until the lock has expired, because after a failover the new
// master may have the lock.
func (l *lock) unlock(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	if !l.tryUnlock(ctx) {
		go l.keepUnlocking(ctx)
	}
}

func (l *lock) keepUnlocking(ctx context.Context) {
	for wait := firstWait; time.Now().Add(wait).Before(l.end); wait = min(2*wait, longestWait) {
		time.Sleep(wait)
		if l.tryUnlock(ctx) {
			return
		}
	}
}

// tryUnlock reports whether another try is useless. A master without its replicas may
// be a former one; the next master still has the lock that they acknowledged.
func (l *lock) tryUnlock(ctx context.Context) bool {
	_, err := do(ctx, l.store.Client, func(ctx context.Context) (any, error) {
		return l.store.write(ctx, unlockScript, l.name, l.content)
	})
	_, slow := errors.AsType[*ReplicasError](err)
	return err == nil || slow && !l.held || errors.Is(err, redis.ErrClosed)
}

// save replaces the value. It may be called again after an error: Redis may have
// replaced the value although no answer came, or may do so later.
func (l *lock) save(ctx context.Context, value []byte) error {
	packed := pack(string(value))
	l.known = slices.DeleteFunc(l.known, func(k string) bool { return k == packed })
	l.known = append(l.known, packed)
	args := []any{l.content, l.store.ttl()}
	for _, k := range l.known {
		args = append(args, k)
	}
	answer, err := do(ctx, l.store.Client, func(ctx context.Context) (any, error) {
		return l.store.write(ctx, saveScript, l.name, args...)
	})
	switch {
	case answer == "lost":
		return errLost
	case answer == "changed":
		return errChanged
	case err != nil:
		return fmt.Errorf("redisstore: save: %w", withoutArguments(err))
	}
	l.known = []string{packed}
	return nil
}

// withoutArguments removes the beginning of a command's arguments, which include the
// value, from a server's error about an unknown command.
func withoutArguments(err error) error {
	if text, _, ok := strings.Cut(err.Error(), ", with args beginning with"); ok {
		return errors.New(text)
	}
	return err
}

var (
	errTaken   = fmt.Errorf("redisstore: %w", tokensource.ErrLocked)
	errLost    = fmt.Errorf("redisstore: the lock was lost: %w", tokensource.ErrLocked)
	errChanged = fmt.Errorf("redisstore: the value was changed meanwhile: %w", tokensource.ErrLocked)
)

// The keys of all scripts are the value and its lock. The first argument is the content
// of our lock. Each script may arrive twice, because the client tries again after a
// lost answer.
//
// The other argument of lockScript is the life. It returns the value, packed.
//
// The other arguments of saveScript are the TTL and, packed, what the value may be. The
// last of these is the new value: if the value is already the new one, the script has
// arrived a second time.
var (
	lockScript = redis.NewScript(`
local value = redis.call('GET', KEYS[1])
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
	return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return value and '+' .. value or '-'
`)
	saveScript = redis.NewScript(`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
	return 'lost'
end
local now = redis.call('GET', KEYS[1])
now = now and '+' .. now or '-'
for i = 3, #ARGV do
	if now == ARGV[i] then
		local value = string.sub(ARGV[#ARGV], 2)
		if ARGV[2] == '0' then
			redis.call('SET', KEYS[1], value)
		else
			redis.call('SET', KEYS[1], value, 'PX', ARGV[2])
		end
		return 'saved'
	end
end
return 'changed'
`)
	unlockScript = redis.NewScript(`
if redis.call('GET', KEYS[2]) == ARGV[1] then
	redis.call('DEL', KEYS[2])
end
return 0
`)
)
