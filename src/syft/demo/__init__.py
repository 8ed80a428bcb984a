"""The main job: a federation over real digits whose updates nobody sees before they are averaged."""
