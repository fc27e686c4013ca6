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

// The lock's life.
const (
	grace       = 2 * time.Second  // beyond the deadline of the context
	defaultLife = 30 * time.Second // where there is no deadline
)

// Waiting times of an unlock that failed.
const (
	firstWait   = 100 * time.Millisecond
	longestWait = time.Second
)

// A lock is the lock of a value, held by one Update.
type lock struct {
	store   *Store
	name    string    // of the value
	content string    // tells it from the locks of others
	end     time.Time // by then it has expired, if Redis has set it at all
	held    bool      // an answer said that it is set

	// known is what the value may be: what was there last or, where an answer
	// was lost, what was to be saved. See pack.
	known []string
}

// pack tells a value from none, in an argument of a script.
func pack(value string) string { return "+" + value }

const packedNone = "-"

// lock tries once. It returns the value as well, nil if there is none. A lock that may
// be set although no answer came is taken off again.
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

// life returns how long the lock lives, from the moment that Redis sets it.
func life(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return defaultLife
	}
	return time.Until(deadline) + grace
}

// unlock removes the lock if it is still this one, whatever has become of ctx. If that
// fails it goes on trying until the lock has expired: after a failover, the new
// master may have it.
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

// tryUnlock reports whether there is no use in another try. A master that has lost its
// replicas may be a former one: the lock that they acknowledged is still at the next.
func (l *lock) tryUnlock(ctx context.Context) bool {
	_, err := do(ctx, l.store.Client, func(ctx context.Context) (any, error) {
		return l.store.write(ctx, unlockScript, l.name, l.content)
	})
	_, slow := errors.AsType[*ReplicasError](err)
	return err == nil || slow && !l.held || errors.Is(err, redis.ErrClosed)
}

// save replaces the value. It may be called again after an error: the value may
// have been replaced although no answer came, and may be so late.
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

// withoutArguments cuts off what a server says of a command that it does not
// know: how its arguments begin, the value among them.
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

// The keys of all scripts are the value and its lock, the first argument is
// what the lock holds if it is ours. Each may arrive twice, as the client tries again
// when an answer is lost.
//
// lockScript's other argument is the life. It returns the value, packed.
//
// saveScript's other arguments are the TTL, and packed what the value may be.
// The last of these is what it is to be: if it is so already, this is the
// second time that the script arrives.
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
