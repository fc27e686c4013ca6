// Package redisstore keeps the tokens of [tokensource.Stored] in Redis, for processes
// on many machines. It needs a server that speaks the protocol of Redis 6.2 or later.
// Make a [Store] and pass it to Stored.
//
// # While Redis is unavailable
//
// A Store waits at most 5 s for an answer of Redis, whatever the timeouts of the
// client. [tokensource.Stored] decides what happens then: every process goes on with
// its token as long as the token is good. If Stored.Unshared is set, sources such as
// [tokensource.ClientCredentials] obtain tokens without Redis. A refresh token is not
// spent without the lock: callers that need a new token wait or get a
// [tokensource.StoreError], and go on automatically when Redis is available again.
//
// # What Redis may lose
//
// When a lock is lost, two processes may spend the same refresh token, and strict
// servers end the login for that. The worst case is [tokensource.ErrReauthenticate] and
// a new login, whose token Set saves for all processes. When a value is lost, a process
// that knows the newest token saves it again, and no refresh token is spent for 45 s:
// see [tokensource.Stored]. To lose nothing:
//
//   - Set appendonly yes and appendfsync always. With everysec, a crash may lose the
//     last second or two. Without appendonly, a restart has the effect of FLUSHALL, or
//     brings old values back.
//   - Set maxmemory-policy noeviction. Any other policy, also volatile-lru, may evict a
//     lock.
//   - Replication is asynchronous: a failover may lose the last save and lock, unless
//     Store.Replicas is the number of all replicas of a master. See below.
//   - Do not use redis.Ring: if it misses a shard, it looks for the keys on another.
//
// # Failover
//
// Set Store.Replicas to the number of replicas that each master has. Then no refresh
// token is spent before all of them have the lock, and no lock is freed before all have
// the new token. With a smaller number, a replica without them may be promoted, because
// Sentinel compares the progress of replicas by information that is up to 5 s old.
//
// While too few replicas are attached, no refresh token is spent, and the error is a
// [ReplicasError]. This lasts from a failover until the failed server is back as a
// replica. All processes go on with their token as long as it is good.
//
// min-replicas-to-write is no substitute. It refuses writes if too few replicas have
// reported within min-replicas-max-lag, 10 s by default. It does not wait until they
// have the write.
//
// A master that restarts without its data, before a replica is promoted, empties its
// replicas. Do not restart it automatically, or let it keep its data.
//
// A cluster's client looks for new masters only once a minute. A Store makes it look
// after each error, so the default settings of the client suffice.
//
// The values are the tokens themselves. MONITOR and SLOWLOG show them; the append-only
// file and backups contain them. Put [tokensource.Encrypted] over a Store, with a key
// that is kept elsewhere.
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

// A Store is a [tokensource.Store] in Redis: a single server, one with replicas, or a
// cluster. You must set Client only.
//
// Each key has a value and, during an Update, a lock that expires by itself. Their
// names in Redis are Prefix{key} and Prefix{key}:lock, where %25, %7B and %7D stand for
// a percent sign and braces in the key. On these keys the Store needs the commands
// GETEX, GET, SET, DEL and EVAL, and WAIT if Replicas is set.
//
// Errors hold nothing of a value. A Store is safe for concurrent use. You must not
// change its fields once it is in use.
type Store struct {
	// Client is the connection to Redis. You close it after the last call of the Store.
	//
	// Values are always read from the master, even if Client otherwise reads from
	// replicas.
	Client redis.UniversalClient

	// Prefix begins all names in Redis. It may be empty, and must not contain braces.
	Prefix string

	// TTL is how long a value is kept after it was last saved. Zero means no limit. It
	// must be longer than an unused refresh token lives, because an expired value is
	// lost.
	TTL time.Duration

	// Replicas is how many replicas must acknowledge a lock before fn is called, and a
	// value before save succeeds (the command WAIT). If fewer do so within 1 s, the
	// error is a [ReplicasError]. Each lock, save and unlock takes longer by a round
	// trip between the servers. Zero means that no replica need acknowledge.
	//
	// Client must then be a *redis.Client, with or without Sentinel, or a
	// *redis.ClusterClient. Its ReadTimeout must be longer than 1 s.
	Replicas int
}

var _ tokensource.Store = (*Store)(nil)

// patience is how long Redis may take to answer. The default timeouts of a client add
// up to minutes, too long to notice that Redis is unavailable.
const patience = 5 * time.Second

// Load returns the value of key, or nil if there is none.
func (s *Store) Load(ctx context.Context, key string) ([]byte, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	// GETEX counts as a write. So it goes to the master, and a replica refuses it,
	// while GET might return an old value.
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

// Update implements [tokensource.Store]. The lock lasts until 2 s after ctx's deadline,
// or for 30 s if ctx has none, even if the process is killed. fn is not called if Redis
// refuses to set the lock, because it is a replica or out of memory, or if it refuses
// the scripts that save and unlock.
//
// save is one script. It replaces the value if this call still holds the lock, and the
// value is the one that fn received or has saved. After a lost answer fn may call save
// again, with the same value or another.
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

// name returns the name of key's value. The braces make Redis Cluster keep the value
// and its lock in one place. Braces in the key would limit this to a part of the key,
// so they are replaced.
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

// ttl returns TTL in milliseconds; zero means no limit.
func (s *Store) ttl() int64 {
	if s.TTL <= 0 {
		return 0
	}
	return max(1, s.TTL.Milliseconds())
}

// do waits for f until ctx ends or patience is over. Clients check a context before
// they send a command, not after: f may go on and take effect later.
//
// After an error it makes a cluster's client ask for the masters. By itself the client
// asks once a minute, and when a server redirects it, which a failed server does not
// do.
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
