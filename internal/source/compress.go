package source

import (
	"bufio"
	"fmt"
	"io"

	"github.com/sealbatch/sealbatch/internal/inflate"
)

// inflated returns what r holds, uncompressed. What r begins with says how it is
// compressed, whatever its name. The second result frees what that takes.
func inflated(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(r, 256<<10)
	begin, err := b.Peek(inflate.Longest)
	if err != nil && len(begin) == 0 {
		if err == io.EOF {
			err = fmt.Errorf("%w: it is empty", ErrArchive)
		}
		return nil, nil, err
	}
	if inflate.Encrypted(begin) {
		return nil, nil, fmt.Errorf("%w: %w", ErrArchive, errEncrypted)
	}
	plain, free, err := inflate.NewReader(b, inflate.Detect(begin))
	if err != nil {
		return nil, nil, broken(err)
	}
	return plain, free, nil
}
