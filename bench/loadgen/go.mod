module sluicefs.io/bench/loadgen

go 1.21
