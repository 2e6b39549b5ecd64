"""What the columns of a table mean."""

LEGEND = """\
* fvd: Frechet video distance; kvd: unbiased kernel video distance; is: video inception score. Lower is better for
  fvd and kvd (down arrow), higher for is (up arrow). `_n64_f8` = 64 generated clips of 8 frames. A name between metric
  and `_n` is the feature network: `fvd_embedded` is made with the suite's own small network and is **not** comparable
  with any published FVD.
* fvd-train, fvd-heldout: the distance to real clips of the training and of the held-out split, as many windows as there
  are (at most four times those of fvd), so numbers of clips differ: each is compared down its own column only.
* memorisation: median distance of a generated clip to the nearest training clip, in units of the same of held-out real
  clips: about 1 for new clips, near 0 for copies; `record.json` names the closest.
* 43.3 (40.1 to 46.9): the score and its 95 % interval, for the same number of clips; rows.csv says of which kind.
* **bold**: told apart, at 95 %, from every other row of its table: by seeds where every row has the same two or more,
  else by the clips alone, and then the spread of training seeds is not in it. Nothing is bold that is not told apart.
* untrained: the same network at its starting weights, zero steps, same protocol.
* clips: training clips seen, all stages together; the suite's own codec is charged in full to each method that uses it.
* train TFLOPs: counted forward and backward of all trained stages, codec included, 1e12 floating-point operations,
  2 a multiply-add; wall: seconds of the cell's process; peak: peak resident memory of the cell's process;
  NFE: network evaluations a clip; guidance doubles their cost.
"""
