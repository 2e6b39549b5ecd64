"""What a sceptic would check of a results folder, each rule a function of the folder alone."""
