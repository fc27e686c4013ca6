// Package redisstore keeps the tokens of [tokensource.Stored] in Redis, for
// processes on many machines. Redis must be of version 6.2 or later, or speak
// its protocol.
//
// # While Redis is away
//
// A Store waits at most 5 s for an answer of Redis, whatever the timeouts of
// the client. What happens then is up to [tokensource.Stored]: every process
// goes on with its token as long as that is good. Sources such as
// [tokensource.ClientCredentials] obtain tokens without Redis if
// Stored.Unshared is set. A refresh token is not spent without the lock: those
// who need a new token wait or get a [tokensource.StoreError], and go on by
// themselves when Redis is back.
//
// # What Redis may lose
//
// When a lock is lost, two processes may spend the same refresh token, and strict servers
// end the login for that. The worst case is [tokensource.ErrReauthenticate] and a new
// login, whose token Set saves for everybody. When a value is lost, a process that knows the
// newest token saves it again, and no refresh token is spent for 45 s: see
// [tokensource.Stored]. To lose nothing:
//
//   - appendonly yes and appendfsync always. With everysec, a crash may lose the
//     last second or two. Without appendonly, a restart is as bad as FLUSHALL, or
//     brings back what was old.
//   - maxmemory-policy noeviction. Any other policy, volatile-lru too, may evict
//     a lock.
//   - Replication is asynchronous: a failover may lose the last save and lock, unless
//     Store.Replicas is the number of all replicas of a master. See below.
//   - No redis.Ring: one that misses a shard looks for its keys on another.
//
// # Failover
//
// Set Store.Replicas to the number of replicas that each master has. No refresh token is
// spent then before all of them have the lock, and no lock is freed before they have the
// new token. With a smaller number, a replica without them may be promoted: Sentinel compares
// how far replicas are by what it learned up to 5 s ago.
//
// While too few replicas are attached, no refresh token is spent, and the error is a
// [ReplicasError]. That is so from a failover until the server that failed is back as a
// replica. All processes go on with their token as long as it is good.
//
// min-replicas-to-write is no substitute. It refuses writes if too few replicas have
// reported within min-replicas-max-lag, 10 s by default. It does not wait until they have
// what is written.
//
// A master that restarts without its data, before a replica is promoted, empties its
// replicas. Don't restart it by itself, or let it keep its data.
//
// The client of a cluster looks for new masters once a minute only. A Store makes it look
// after each error, so the default settings of the client are good enough.
//
// Values are the tokens themselves: MONITOR and SLOWLOG show them, the append-only file and backups hold
// them. Put [tokensource.Encrypted] over a Store, with a key that is kept elsewhere.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/tokensource"
)

// A Store is a [tokensource.Store] in Redis: a single server, one with
// replicas, or a cluster. Only Client must be set.
//
// Each key has a value and, during an Update, a lock that expires by itself.
// In Redis they are called Prefix{key} and Prefix{key}:lock, where %25, %7B and
// %7D stand for a percent sign and braces in the key. Of them the Store needs
// the commands GETEX, GET, SET, DEL and EVAL, and WAIT if Replicas is set.
//
// Errors hold nothing of a value. A Store is safe for concurrent use; its fields
// must not be changed once it is in use.
type Store struct {
	// Client is the connection to Redis. The caller closes it, after the last
	// call of the Store.
	//
	// Values are always read from the master, even if Client reads from
	// replicas otherwise.
	Client redis.UniversalClient

	// Prefix begins all names in Redis. It may be empty, and holds no braces.
	Prefix string

	// TTL is how long a value is kept after it was last saved. Zero means for
	// ever. It must be longer than a refresh token lives while nobody uses it:
	// what has expired is as good as lost.
	TTL time.Duration

	// Replicas is how many replicas must acknowledge a lock before fn is called, and a
	// value before save succeeds (the command WAIT). If fewer do so within 1 s, the error
	// is a [ReplicasError]. Each lock, save and unlock takes a round trip between
	// the servers longer. Zero waits for no replica.
	//
	// Client must then be a *redis.Client, with or without Sentinel, or a
	// *redis.ClusterClient. Its ReadTimeout must be longer than 1 s.
	Replicas int
}

var _ tokensource.Store = (*Store)(nil)

// patience is how long Redis may take to answer. The default timeouts of a
// client add up to minutes: so long nobody would learn that Redis is away.
const patience = 5 * time.Second

// Load returns the value of key, nil if there is none.
func (s *Store) Load(ctx context.Context, key string) ([]byte, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	// GETEX counts as a write. So it goes to the master, and a replica refuses
	// it, where GET would return what may be old.
	value, err := do(ctx, s.Client, func(ctx context.Context) (string, error) {
		return s.Client.GetEx(ctx, name, redis.KeepTTL).Result()
	})
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("redisstore: load: %w", err)
	}
	return []byte(value), nil
}

// Update is as [tokensource.Store] has it. The lock lives until 2 s after ctx's
// deadline, or for 30 s if ctx has none; so long does that of a process that was
// killed. Where Redis refuses to set it, because it is a replica or out of memory, or
// refuses the scripts that save and unlock, fn is not called.
//
// save is one script: it replaces the value if the lock is still this call's and
// the value what fn was given or has saved. A save whose answer was lost may be
// called again, with the same value or another.
func (s *Store) Update(ctx context.Context, key string, fn func(value []byte, save func([]byte) error) error) error {
	name, err := s.name(key)
	if err != nil {
		return err
	}
	l, value, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer l.unlock(ctx)
	return fn(value, func(value []byte) error { return l.save(ctx, value) })
}

// name returns the name of key's value. The braces make Redis Cluster keep it
// and its lock in one place; of the key itself it would heed only a part if it held any.
func (s *Store) name(key string) (string, error) {
	switch {
	case s.Client == nil:
		return "", errors.New("redisstore: Store.Client is nil")
	case s.Replicas > 0 && !s.countsReplicas():
		return "", fmt.Errorf("redisstore: Store.Replicas needs a *redis.Client or a *redis.ClusterClient, Store.Client is a %T", s.Client)
	case strings.ContainsAny(s.Prefix, "{}"):
		return "", errors.New("redisstore: Store.Prefix holds a brace")
	case key == "":
		return "", errors.New("redisstore: the key is empty")
	}
	return s.Prefix + "{" + braces.Replace(key) + "}", nil
}

var braces = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D")

// ttl returns TTL in milliseconds; zero means for ever.
func (s *Store) ttl() int64 {
	if s.TTL <= 0 {
		return 0
	}
	return max(1, s.TTL.Milliseconds())
}

// do waits for f until ctx ends, or patience does. Clients heed a context
// before they send a command, not after: f may go on, and do its work late.
//
// After an error the client of a cluster asks who the masters are. By itself it asks once a
// minute, and when a server redirects it, which a server that is gone does not.
func do[T any](ctx context.Context, client redis.UniversalClient, f func(context.Context) (T, error)) (value T, err error) {
	type result struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		value, err := f(ctx)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		value, err = r.value, r.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if cluster, ok := client.(*redis.ClusterClient); ok && err != nil && !errors.Is(err, redis.Nil) {
		cluster.ReloadState(ctx)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return value, err
}

var errSilent = fmt.Errorf("no answer from Redis within %v", patience)
