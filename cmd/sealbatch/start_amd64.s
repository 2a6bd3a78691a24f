#include "textflag.h"

// func start(): where the program begins; see start.go.
TEXT ·start(SB), NOSPLIT|NOFRAME, $0
	MOVQ	$72, AX	// fcntl
	MOVQ	$1, DI	// standard output
	MOVQ	$1, SI	// F_GETFD
	SYSCALL
	MOVQ	AX, ·stdoutAtStart(SB)
	JMP	_rt0_amd64_linux(SB)
