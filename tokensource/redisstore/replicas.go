package redisstore

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// A ReplicasError says that fewer replicas than [Store.Replicas] have acknowledged a
// write within a second. The server has the write nevertheless, and possibly some
// replicas.
type ReplicasError struct {
	Acknowledged, Required int
}

// Error returns both numbers.
func (e *ReplicasError) Error() string {
	return fmt.Sprintf("acknowledged by %d replicas within %v, want %d", e.Acknowledged, ackTime, e.Required)
}

const ackTime = time.Second

// write runs a script on a value and its lock. It returns a [ReplicasError] together
// with the answer.
//
// It sends the script itself, not its hash. WAIT concerns only the writes of its own
// connection, so both go in one pipeline, which cannot react to an unknown hash.
func (s *Store) write(ctx context.Context, script *redis.Script, name string, args ...any) (any, error) {
	keys := []string{name, name + ":lock"}
	if s.Replicas <= 0 {
		return script.Eval(ctx, s.Client, keys, args...).Result()
	}
	master, err := s.master(ctx, name)
	if err != nil {
		return nil, err
	}
	pipeline := master.Pipeline()
	answer := script.Eval(ctx, pipeline, keys, args...)
	acks := redis.NewIntCmd(ctx, "wait", s.Replicas, ackTime.Milliseconds())
	pipeline.Process(ctx, acks)
	pipeline.Exec(ctx)
	switch {
	case answer.Err() != nil:
		return nil, answer.Err()
	case acks.Err() != nil:
		return answer.Val(), acks.Err()
	case int(acks.Val()) < s.Replicas:
		return answer.Val(), &ReplicasError{int(acks.Val()), s.Replicas}
	}
	return answer.Val(), nil
}

// master returns the client of the server that has name. In a cluster, a pipeline of
// the cluster's client would send WAIT to any server.
func (s *Store) master(ctx context.Context, name string) (*redis.Client, error) {
	if cluster, ok := s.Client.(*redis.ClusterClient); ok {
		return cluster.MasterForKey(ctx, name)
	}
	return s.Client.(*redis.Client), nil
}

// countsReplicas reports whether master supports the client. A Ring has no replicas.
func (s *Store) countsReplicas() bool {
	switch s.Client.(type) {
	case *redis.Client, *redis.ClusterClient:
		return true
	}
	return false
}
