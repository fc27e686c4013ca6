package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/tokensource"
)

// The lock's life.
const (
	grace       = 2 * time.Second  // beyond the deadline of the context
	defaultLife = 30 * time.Second // where there is no deadline
	unlockTime  = 3 * time.Second
)

// A lock is the lock of a value, held by one Update.
type lock struct {
	store *Store
	name  string // of the value
	mutex *redsync.Mutex

	// known is what the value may be: what was there last or, where an answer
	// was lost, what was to be saved. See pack.
	known []string
}

// pack tells a value from none, in an argument of a script.
func pack(value string) string { return "+" + value }

const packedNone = "-"

// lock tries once. The mutex has its content from the beginning, so that a lock
// that was set although no answer came can be taken off again.
func (s *Store) lock(ctx context.Context, name string) (*lock, error) {
	content := rand.Text()
	mutex := redsync.New(goredis.NewPool(s.Client)).NewMutex(name+":lock",
		redsync.WithExpiry(life(ctx)),
		redsync.WithTimeoutFactor(1), // it is ctx that limits the time
		redsync.WithValue(content),
		redsync.WithGenValueFunc(func() (string, error) { return content, nil }),
	)
	l := &lock{store: s, name: name, mutex: mutex}
	tried := make(chan struct{})
	_, err := do(ctx, func(ctx context.Context) (any, error) {
		defer close(tried)
		return nil, mutex.TryLockContext(ctx)
	})
	if err == nil {
		return l, nil
	}
	if _, taken := errors.AsType[*redsync.ErrTaken](err); taken {
		return nil, fmt.Errorf("redisstore: %w", tokensource.ErrLocked)
	}
	go func() {
		<-tried
		l.unlock(ctx)
	}()
	if failure, ok := errors.AsType[*redsync.RedisError](err); ok {
		err = failure.Err
	}
	return nil, fmt.Errorf("redisstore: lock: %w", err)
}

// life returns how long the lock lives, from the moment that Redis sets it.
func life(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return defaultLife
	}
	return time.Until(deadline) + grace
}

// unlock removes the lock if it is still this one, whatever has become of ctx.
// If it fails, the lock expires.
func (l *lock) unlock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTime)
	defer cancel()
	do(ctx, l.mutex.UnlockContext)
}

// load returns the value, nil if there is none. It is a script to find out
// before a refresh token is spent whether Redis runs scripts at all.
func (l *lock) load(ctx context.Context) ([]byte, error) {
	answer, err := do(ctx, func(ctx context.Context) ([]any, error) {
		return loadScript.Run(ctx, l.store.Client, l.names(), l.mutex.Value()).Slice()
	})
	switch {
	case errors.Is(err, redis.Nil):
		return nil, errLost
	case err != nil:
		return nil, fmt.Errorf("redisstore: load: %w", err)
	}
	value, ok := answer[0].(string)
	if !ok {
		l.known = []string{packedNone}
		return nil, nil
	}
	l.known = []string{pack(value)}
	return []byte(value), nil
}

// save replaces the value. It may be called again after an error: the value may
// have been replaced although no answer came, and may be so late.
func (l *lock) save(ctx context.Context, value []byte) error {
	packed := pack(string(value))
	l.known = slices.DeleteFunc(l.known, func(k string) bool { return k == packed })
	l.known = append(l.known, packed)
	args := []any{l.mutex.Value(), l.store.ttl()}
	for _, k := range l.known {
		args = append(args, k)
	}
	answer, err := do(ctx, func(ctx context.Context) (string, error) {
		return saveScript.Run(ctx, l.store.Client, l.names(), args...).Text()
	})
	switch {
	case err != nil:
		return fmt.Errorf("redisstore: save: %w", withoutArguments(err))
	case answer == "lost":
		return errLost
	case answer == "changed":
		return errChanged
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
	errLost    = fmt.Errorf("redisstore: the lock was lost: %w", tokensource.ErrLocked)
	errChanged = fmt.Errorf("redisstore: the value was changed meanwhile: %w", tokensource.ErrLocked)
)

func (l *lock) names() []string { return []string{l.name, l.mutex.Name()} }

// The keys of both scripts are the value and its lock, the first argument is
// what the lock holds if it is ours.
//
// saveScript's other arguments are the TTL, and packed what the value may be.
// The last of these is what it is to be: if it is so already, this is the
// second time that the script arrives.
var (
	loadScript = redis.NewScript(`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
	return false
end
return {redis.call('GET', KEYS[1])}
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
)
