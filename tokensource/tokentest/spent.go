package tokentest

import "time"

// minSweep keeps a small memory from being swept for each new id.
const minSweep = 64

// A spentIDs remembers the jti of each JWT that may be used once, until the
// JWT is dead by its age. So it stays bounded however long the server runs.
type spentIDs struct {
	until   map[string]time.Time
	sweepAt int
}

func newSpentIDs() spentIDs {
	return spentIDs{until: make(map[string]time.Time), sweepAt: minSweep}
}

// spend reports false for an id that was spent before. The JWT must be refused
// for its age from until on.
func (s *spentIDs) spend(id string, until time.Time) bool {
	if _, spent := s.until[id]; spent {
		return false
	}
	if len(s.until) >= s.sweepAt {
		s.sweep()
	}
	s.until[id] = until
	return true
}

// sweep is due again when the rest has doubled, so that its cost is spread.
func (s *spentIDs) sweep() {
	now := time.Now()
	for id, until := range s.until {
		if !now.Before(until) {
			delete(s.until, id)
		}
	}
	s.sweepAt = max(minSweep, 2*len(s.until))
}
